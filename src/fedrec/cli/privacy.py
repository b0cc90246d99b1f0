"""Commands about privacy: the promise of a run, the relation of noise and epsilon, and an owner's budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedrec.cli.options import Json, Quiet
from fedrec.cli.output import Output, rows_table
from fedrec.errors import DamagedError, InputError, RunError

__all__ = ["app"]

app = typer.Typer(
    help="Show the privacy of a run, plan noise and epsilon, and keep an owner's budget.", no_args_is_help=True
)

Delta = Annotated[
    float,
    typer.Option(
        "--delta",
        help="Probability that the privacy loss of a user is larger than epsilon. A good value is a tenth of 1 / users "
        "or less.",
    ),
]


@app.command("show")
def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Explain which privacy a run promises to users, recomputed from its ledger."""
    from fedrec.federation.run import read_plan
    from fedrec.privacy.accounting import Charge
    from fedrec.privacy.words import explain
    from fedrec.record.ledger import Ledger

    plan = read_plan(run)
    if plan.privacy is None:
        raise RunError(
            f"{run} promises no privacy: its plan has no privacy, so all its sums are exact. Train with --epsilon and "
            "--delta"
        )
    ledger = Ledger(run / "ledger.jsonl")
    charges = [Charge.from_json(line.get("charge")) for line in ledger.of_kind("round")]
    if not charges:
        raise RunError(f"{run} has no committed round, so it has released nothing yet; continue it with --resume")
    cost = plan.privacy.cost(charges)
    started = ledger.of_kind("start")
    if not started:
        raise DamagedError(f"{run / 'ledger.jsonl'} has no start line; the run was changed")
    secret = bool(started[0].get("noise_is_secret"))
    words = explain(plan.privacy, cost, charges, plan.share(), secret)
    answer = {
        "run": str(run),
        "epsilons": cost.to_json(),
        "rounds": len(charges),
        "terms": plan.privacy.model_dump(),
        "noise_is_secret": secret,
        "words": words,
    }
    Output(json_, quiet).answer(answer, f"{run}: {plan.model['name']}, user-level differential privacy\n", *words)


@app.command("plan")
def plan(
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="Compute the noise multiplier for this epsilon.")
    ] = None,
    noise: Annotated[
        float | None, typer.Option("--noise", help="Compute the epsilon of this noise multiplier.")
    ] = None,
    delta: Delta = 1e-6,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Number of rounds.")] = 1,
    sampling: Annotated[
        float | None,
        typer.Option(
            "--sampling",
            help="Probability that a user takes part in a round. Only for observers who do not learn who takes part.",
        ),
    ] = None,
    participations: Annotated[
        int | None,
        typer.Option("--participations", min=1, help="Maximum number of rounds that one user takes part in."),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compute how much noise a privacy loss epsilon needs, or which epsilon an amount of noise gives.

    The command reads no data. The noise multiplier is the standard deviation of the noise, divided by the clip, which
    is the maximum norm of what one user adds to a sum. The table shows the noise multiplier
    of a plan (privacy.noise_multiplier) and, beside it, that of each round. Without --sampling the first one belongs to
    the whole run, and each of R equal rounds has √R times as much noise. With --sampling, and without
    --participations, both are equal.
    """
    from fedrec.privacy.accounting import epsilon_of, noise_for

    if (epsilon is None) == (noise is None):
        raise InputError("give either --epsilon, to compute the noise, or --noise, to compute the epsilon")
    if noise is None:
        assert epsilon is not None
        noise = noise_for(epsilon, delta, rounds, sampling=sampling, participations=participations)
    reached = epsilon_of(noise, delta, rounds, sampling=sampling, participations=participations)
    table = rows_table(
        f"{rounds} round{'s' if rounds > 1 else ''}, delta {delta:g}", "epsilon", "noise multiplier", "per round"
    )
    amplified = sampling is not None and participations is None
    per_round = noise if amplified else noise * rounds**0.5
    table.add_row(f"{reached:.4f}", f"{noise:.5f}", f"{per_round:.5f}")
    answer: dict[str, Any] = {
        "epsilon": reached,
        "delta": delta,
        "rounds": rounds,
        "sampling": sampling,
        "participations": participations,
        "noise_multiplier": noise,
        "noise_multiplier_per_round": per_round,
        "view": "cohort" if sampling is None else "release",
    }
    Output(json_, quiet).answer(answer, table)


@app.command("budget")
def budget(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The owner's journal; --epsilon makes a new file.")],
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="Maximum epsilon over all runs, for a new file.")
    ] = None,
    delta: Delta = 1e-6,
    min_noise: Annotated[float | None, typer.Option("--min-noise", help="Minimum noise multiplier of a round.")] = None,
    max_clip: Annotated[float | None, typer.Option("--max-clip", help="Maximum clip of a plan.")] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make an owner's privacy budget, or show how much is left. Use it with `fedrec train --budget FILE`."""
    from fedrec.privacy.budget import Budget, Limits

    opened = Budget(file, Limits(epsilon, delta, min_noise, max_clip)) if epsilon is not None else Budget.open(file)
    assert opened.limits is not None
    table = rows_table(
        f"{file}: epsilon {opened.limits.epsilon:g} at delta {opened.limits.delta:g}", "node", "spent", "left", "runs"
    )
    spent = {node: opened.epsilon(node) for node in opened.nodes()}
    for node, used in spent.items():
        table.add_row(node, f"{used:.4f}", f"{max(0.0, opened.limits.epsilon - used):.4f}", str(opened.runs(node)))
    answer = {"file": str(file), "limits": vars(opened.limits), "spent": spent}
    Output(json_, quiet).answer(answer, table)
