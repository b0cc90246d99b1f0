"""What a ledger says of a training, held against the plan, the checkpoints, the charges and the model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from fedrec.documents import MOST_LINES, parse_json, read_file
from fedrec.errors import DamagedError, FedrecError
from fedrec.federation.best_round import kept_round
from fedrec.federation.checkpoints import ended_state, packed, unpacked
from fedrec.federation.ledger_fields import Lines
from fedrec.federation.model_folder import load_shared
from fedrec.federation.plan import Plan
from fedrec.federation.versions import check_versions
from fedrec.privacy.accounting import Charge, Epsilons, cohort_epsilon
from fedrec.record.durable import arrays_digest, load_arrays
from fedrec.record.files import LEDGER, file_digest
from fedrec.record.ledger import Ledger

__all__ = [
    "check_chain",
    "check_charges",
    "check_checkpoints",
    "check_model",
    "check_report",
    "of_kind",
]

_CLOSE = 1e-9
_SLACK = 1.0 + 1e-6


def of_kind(lines: Lines, kind: str) -> list[tuple[str, dict[str, Any]]]:
    """(where, line) of the lines of one kind.

    >>> of_kind([{"kind": "start"}, {"kind": "round", "round": 0}], "round")
    [('ledger.jsonl, line 2', {'kind': 'round', 'round': 0})]
    """
    return [(f"{LEDGER}, line {number}", line) for number, line in enumerate(lines, 1) if line["kind"] == kind]


def check_chain(plan: Plan, lines: Lines) -> None:
    """Check that the lines are those of one training of the plan, in order.

    Raises:
        DamagedError: naming the first line that is not.
    """
    start = lines[0]
    if start["kind"] != "start" or len(of_kind(lines, "start")) != 1:
        raise DamagedError(f"{LEDGER}, line 1: a ledger must have one start, in its first line")
    if start["plan"] != plan.digest:
        raise DamagedError("plan.yaml: changed; the ledger was started with another plan")
    if (start["catalog"], start["leaky"]) != (plan.catalog, plan.leaky):
        raise DamagedError(f"{LEDGER}, line 1: catalog or leaky is not as in the plan")
    rounds = of_kind(lines, "round")
    for number, (where, line) in enumerate(rounds):
        if line["round"] != number:
            raise DamagedError(f"{where}: the round is {line['round']}, but must be {number}")
    if plan.asynchronous is not None:
        check_versions(plan.asynchronous, rounds)
    for where, line in of_kind(lines, "validation"):
        if not 0 <= line["round"] < len(rounds) or not _are_numbers(line["metrics"]):
            raise DamagedError(f"{where}: the validation is not of a committed round, or its metrics are not numbers")
    for where, line in of_kind(lines, "end")[:1]:
        ledger = Ledger(None)
        ledger.lines = lines
        if lines[-1] is not line:
            raise DamagedError(f"{where}: the end must be the last line")
        if not rounds or line["kept"] != kept_round(plan, ledger):
            raise DamagedError(f"{where}: round {line['kept']} is not the round that the plan keeps")


def check_checkpoints(folder: Path, lines: Lines, published: bool = False) -> list[str]:
    """Check that checkpoints on the disk are those that rounds committed; says which are of no committed round.

    Of a run that has ended, `model/` and the coordinator's own arrays are the checkpoint of the round that was kept; a
    `published` copy may lack the latter.

    Raises:
        DamagedError: naming the checkpoint that was changed or is missing, or the line that tells another model.
    """
    rounds = {line["round"]: (where, line) for where, line in of_kind(lines, "round")}
    kept = next((line["kept"] for _, line in of_kind(lines, "end")), None)
    remarks, there = [], set()
    for path in sorted((folder / "checkpoint").glob("*.safetensors")):
        name = path.relative_to(folder).as_posix()
        kind, _, number = path.stem.partition("-")
        round = int(number) if number.isdecimal() else -1
        where, line = rounds.get(round, ("", {}))
        if kind == "server" and round == kept:
            there.add(kind)
            continue
        if kind != "round" or not line:
            remarks.append(f"{name} is of a round that was not committed; the ledger does not cover it")
            continue
        there |= {kind} if round == kept else set()
        if file_digest(path) != line["checkpoint"]:
            raise DamagedError(f"{name}: changed; the ledger committed another checkpoint")
        if arrays_digest(unpacked(load_arrays(path), name).shared) != line["model"]:
            raise DamagedError(f"{where}: the model of this round is not the model in {name}")
    if rounds and kept is None:
        newest = f"checkpoint/round-{max(rounds):06d}.safetensors"
        if not (folder / newest).exists():
            raise DamagedError(f"{newest}: missing; the run cannot continue without this checkpoint")
    if kept is not None and kept in rounds and ("server" in there or not ("round" in there or published)):
        where, line = rounds[kept]
        name = f"checkpoint/server-{kept:06d}.safetensors" if "server" in there else "model/shared.safetensors"
        state = ended_state(folder, kept)
        if arrays_digest(state.shared) != line["model"]:
            raise DamagedError(f"{where}: the model of this round is not the model in model/")
        if arrays_digest(packed(state)) != line["checkpoint"]:
            raise DamagedError(f"{name}: {where} committed another checkpoint")
    return remarks


def check_charges(plan: Plan, lines: Lines) -> Epsilons | None:
    """Check that charges are the plan's and every epsilon is what they add up to; what the run cost, if anything.

    Raises:
        DamagedError: naming the first line with another charge or epsilon.
    """
    terms = plan.privacy
    if terms is None:
        return None
    agreed = plan.charges()
    charges: list[Charge] = []
    rounds = of_kind(lines, "round")
    for where, line in rounds:
        try:
            charge = Charge.from_json(line.get("charge"))
        except DamagedError as error:
            raise DamagedError(f"{where}: {error}") from None
        if line["round"] >= len(agreed) or charge != agreed[line["round"]]:
            raise DamagedError(f"{where}: the privacy charge is not that of the plan")
        charges.append(charge)
        cost, said = cohort_epsilon(charges, terms.delta, terms.participations), line.get("epsilon_cohort")
        if not isinstance(said, float) or not math.isclose(said, cost, rel_tol=_CLOSE):
            raise DamagedError(f"{where}: epsilon_cohort is {said}, but the charges add up to {cost:.6g}")
    if not charges:
        return None
    whole = terms.cost(charges)
    if getattr(whole, terms.view) > terms.epsilon * _SLACK:
        raise DamagedError(f"{rounds[-1][0]}: epsilon {getattr(whole, terms.view):.6g} is above that of the plan")
    return whole


def check_report(folder: Path, cost: Epsilons | None) -> None:
    """Check that a private run's report says the epsilons that it cost.

    Raises:
        DamagedError: if it says others.
    """
    path = folder / "report.json"
    if cost is None or not path.exists():
        return
    try:
        said, known = parse_json(read_file(path, MOST_LINES))["privacy"]["epsilons"], cost.to_json()
        same = said.keys() == known.keys() and all(
            value == said[key] or math.isclose(float(value), float(said[key]), rel_tol=_CLOSE)
            for key, value in known.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        same = False
    if not same:
        raise DamagedError("report.json: the epsilons are not the total of the charges in the ledger")


def check_model(folder: Path, plan: Plan, lines: Lines) -> None:
    """Check that `model/` is whole, of the plan, and the model of the round that was kept.

    Raises:
        DamagedError: if it is not.
    """
    if not (folder / "model" / "model.json").exists():
        return
    try:
        _, state, round = load_shared(folder / "model", plan)
    except FedrecError as error:
        raise DamagedError(f"model: {error}") from None
    for where, line in of_kind(lines, "end"):
        committed = of_kind(lines, "round")[line["kept"]][1]
        if (round, arrays_digest(state.shared)) != (line["kept"], committed["model"]):
            raise DamagedError(f"{where}: model/ does not hold the model of round {line['kept']}")


def _are_numbers(metrics: dict[str, Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in metrics.values())
