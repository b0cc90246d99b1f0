"""Commands of a node's owner: make its key and configuration, explain what it allows, and run it."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrec.cli.devices import on_device
from fedrec.cli.options import (
    RENAMED_OPTIONS,
    Json,
    Quiet,
    Threads,
    agreed_items,
)
from fedrec.cli.output import Output, rows_table
from fedrec.cli.reading import Reading, reads_data
from fedrec.errors import FedrecError, InputError

if TYPE_CHECKING:
    from fedrec.data.catalog import Catalog
    from fedrec.data.interactions import Interactions
    from fedrec.federation.plan import Plan
    from fedrec.owner.config import NodeConfig
    from fedrec.owner.limits import ResourceLimits

__all__ = ["app"]

app = typer.Typer(help="Set up, check and run a node, for the owner of the data.", no_args_is_help=True)

_EXAMPLES = 5

Config = Annotated[Path, typer.Option("--config", help="The owner's node.toml.")]


@app.command("init", context_settings=RENAMED_OPTIONS)
@reads_data("catalog", "clean")
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of this node, such as shop-a.")],
    data: Annotated[
        str, typer.Option("--data", help="Data of this node: a file, a folder of Parquet files, or a database URL.")
    ],
    home: Annotated[
        Path | None,
        typer.Option("--home", help="Folder for the node's key, runs and privacy budget; NAME-home by default."),
    ] = None,
    config: Config = Path("node.toml"),
    coordinator: Annotated[str | None, typer.Option("--coordinator", help="Public key of the coordinator.")] = None,
    party: Annotated[
        list[str] | None,
        typer.Option("--party", help="Public key of another node; repeat the option for several nodes."),
    ] = None,
    catalog: Annotated[
        Path | None,
        typer.Option(
            "--catalog", help="File of the agreed items, with a column item_id; plans with other items are refused."
        ),
    ] = None,
    max_clients: Annotated[
        int | None, typer.Option("--max-clients", help="Agreed maximum number of users of all nodes together.", min=1)
    ] = None,
    without_privacy: Annotated[
        bool,
        typer.Option(
            "--allow-without-privacy",
            help="Also allow plans without privacy; their exact sums can reveal what single users did.",
        ),
    ] = False,
    *,
    reading: Reading,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a node.toml with safe defaults, make the node's key, and print the public key for the other owners."""
    from fedrec.federation.data_plan import DataPlan
    from fedrec.owner.new_node import make_node

    folder = home or Path(f"{name}-home")
    source = DataPlan.make(reading.settings(data))
    items = () if catalog is None else agreed_items(catalog, reading.on_error, Output(json_, quiet).warn).digests
    public = str(
        make_node(name, config, folder, source, coordinator, party or (), items, max_clients, not without_privacy)
    )
    answer = {"node": name, "config": str(config), "home": str(folder), "public_key": public}
    Output(json_, quiet).answer(
        answer,
        f"Wrote {config}. Read it, then run 'fedrec node check --config {config}', which explains what it allows.",
        "Public key of this node, for policy.parties in node.toml of the other owners:",
        public,
        "Give this key to the other owners yourself, in person, by telephone or in a signed letter. Do not send the "
        "key through the coordinator, who could replace it by another.",
        "Plans without privacy are allowed; their sums are exact."
        if without_privacy
        else "Only plans with privacy are allowed. To allow exact sums too, set privacy.required = false in the file.",
    )


@app.command("check")
def check(
    config: Config = Path("node.toml"),
    plan: Annotated[Path | None, typer.Option("--plan", help="Plan (YAML) to check against node.toml.")] = None,
    secure: Annotated[
        bool | None,
        typer.Option("--secure/--plain", help="Check the plan with secure aggregation, or with unmasked sums."),
    ] = None,
    data: Annotated[bool, typer.Option("--data/--no-data", help="Read the data and describe it.")] = True,
    catalog: Annotated[
        Path | None, typer.Option("--catalog", help="File of the agreed items; counts the rows about other items.")
    ] = None,
    kit: Annotated[
        Path | None, typer.Option("--kit", help="Startup kit of this node; prints until when its certificate is valid.")
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Explain what this node allows, and whether it would accept a plan.

    The exit code is 2 if the data cannot be read or the plan would be refused.
    """
    from fedrec.federation.plan import Plan
    from fedrec.owner.config import NodeConfig
    from fedrec.owner.policy_words import cautions, explain_policy, own_key, run_losses

    owned = NodeConfig.read(config)
    requested = None if plan is None else Plan.read(plan)
    budget = owned.read_budget()
    agreed = None if catalog is None else agreed_items(catalog, None, Output(json_, quiet).warn)
    facts, failed = _data(owned, agreed) if data else ({}, False)
    words, losses, key = explain_policy(owned, budget), run_losses(owned), own_key(owned)
    warnings = cautions(owned, facts.get("users"))
    if agreed is not None and owned.policy.catalogs and agreed.digest not in owned.policy.catalogs:
        warnings.append(
            f"policy.catalogs in node.toml does not list {catalog}, whose digest is {agreed.digest}; add the digest if "
            "the owners agreed on these items"
        )
    answer: dict[str, Any] = {
        "node": owned.name,
        "config": str(config),
        "public_key": None if key is None else str(key),
        "words": words,
        "cautions": warnings,
        "data": facts or None,
        "budget": {
            "limits": None if budget.limits is None else vars(budget.limits),
            "spent": budget.epsilon(owned.name),
            "runs": [loss.to_json() for loss in losses],
        },
    }
    shown: list[Any] = [f"What node {owned.name} allows, from {config}\n", *words]
    if kit is not None:
        from fedrec.network.nvflare.kits import check_kit, ends_soon

        expires = check_kit(kit, "client.crt")
        answer["kit"] = {"folder": str(kit), "valid_until": expires.isoformat()}
        shown.append(f"The certificate in {kit} is valid until {expires:%Y-%m-%d}.")
        caution = ends_soon(expires, str(kit), "ask the coordinator for a new kit")
        if caution is not None:
            warnings.append(caution)
    if losses:
        table = rows_table("\nruns with privacy so far", "run", "epsilon reserved", "rounds answered")
        for loss in losses:
            epsilon = "-" if loss.epsilon is None else f"{loss.epsilon:.4g}"
            table.add_row(loss.run[:16], epsilon, f"{loss.answered} of {loss.rounds or '?'}")
        shown.append(table)
    if facts:
        table = rows_table(f"\n{facts['source']}", "fact", "value")
        for fact, value in facts.items():
            if fact != "source":
                table.add_row(fact.replace("_", " "), _shown(value))
        shown.append(table)
    if warnings:
        shown += ["\nWarnings:", *(f"- {text}." for text in warnings)]
    if requested is not None:
        verdict = _verdict(owned, requested, secure, facts)
        answer["plan"] = {"file": str(plan), **verdict}
        shown += _judged(plan, verdict)
        failed = failed or not verdict["allowed"]
    Output(json_, quiet).answer(answer, *shown)
    if failed:
        raise typer.Exit(2)


def _data(config: NodeConfig, agreed: Catalog | None) -> tuple[dict[str, Any], bool]:
    """Facts about the data, including rows about items outside the agreed catalog, and whether training would stop."""
    from fedrec.data.description import describe_data
    from fedrec.data.judging import remark_on_values
    from fedrec.data.sources import load_source
    from fedrec.owner.config import redacted

    source = redacted(config.data.source)
    options = config.data.reading()
    if not source.startswith("synthetic"):
        options["on_error"] = "skip"
    try:
        with config.limits.held():
            loaded = load_source(config.data.source, cleaning=config.data.cleaning, **options)
            described = describe_data(loaded.interactions)
    except (FedrecError, OSError) as error:
        return {"source": source, "cannot_be_read": redacted(str(error))}, True
    kept = ("users", "items", "interactions", "per_user", "from", "to", "times", "user_columns")
    malformed = loaded.report.left_out.height
    facts = {
        "source": source,
        **{fact: described[fact] for fact in kept if fact in described},
        "malformed_rows": malformed,
        "left_out": loaded.left_out_counts,
        "digest": loaded.digest,
    }
    if (remark := remark_on_values(loaded.interactions)) is not None:
        facts["values"] = remark
    if agreed is not None:
        facts["outside_the_catalog"] = _outside(loaded.interactions, agreed)
    else:
        facts["outside_the_catalog"] = "not counted; give the agreed items with --catalog"
    stops = []
    if config.data.digest not in (None, loaded.digest):
        stops.append(
            f"would stop: the data does not have the digest in node.toml, {config.data.digest}; restore that data, or "
            "remove data.digest"
        )
    if malformed > 0 and config.data.on_error == "raise":
        stops.append('would stop at the first malformed row; set data.on_error = "skip" to leave out malformed rows')
    if stops:
        facts["training"] = "; ".join(stops)
    return facts, bool(stops)


def _outside(data: Interactions, agreed: Catalog) -> dict[str, Any]:
    """Number of rows about items outside the agreed catalog, which the node leaves out, and of these items."""
    import numpy as np

    unknown = agreed.items.look_up(data.catalog.items.series) < 0
    counts = np.bincount(data.items, minlength=data.n_items)
    often = np.argsort(-np.where(unknown, counts, 0), kind="stable")[: min(_EXAMPLES, int(unknown.sum()))]
    return {
        "rows": int(counts[unknown].sum()),
        "of": len(data),
        "items": int(unknown.sum()),
        "such_as": [data.catalog.items[int(place)] for place in often],
    }


def _verdict(config: NodeConfig, plan: Plan, secure: bool | None, data: dict[str, Any]) -> dict[str, Any]:
    from fedrec.data.splits import SplitMethod
    from fedrec.models.outline import read_in_order
    from fedrec.owner.policy import refusals

    distributed = plan.privacy is not None and plan.privacy.distributed
    grouped = plan.robust is not None and plan.robust.over == "groups"
    masked = secure if secure is not None else config.policy.secure or distributed or grouped
    reasons = refusals(
        config,
        plan,
        coordinator=config.policy.coordinator or "",
        parties=config.policy.parties if masked else (),
        secure=masked,
        budget=config.read_budget(),
        users=data.get("users"),
        items=data.get("items"),
    )
    method = SplitMethod.parse(plan.split)
    if str(data.get("times", "")).startswith("none") and not method.by_rows:
        advice = "and the data has no times. Name a column of times in data.columns of node.toml, or agree on"
        if method.needs_order:
            reasons.append(
                f"split: {plan.split} needs the time of each interaction, {advice} a split such as ratio:0.8"
            )
        if (ordered := read_in_order(plan.build_model())) is not None:
            reasons.append(f"model: {ordered.what} needs the time of each interaction, {advice} {ordered.instead}")
    return {"digest": plan.digest, "secure": masked, "allowed": not reasons, "refusals": reasons, "open": _open(plan)}


def _open(plan: Plan) -> list[str]:
    """Keys that the plan does not set; filling them in changes the digest of the plan."""
    left = {
        "n_max, the maximum number of clients": plan.n_max is None,
        "catalog, the digest of the agreed items": plan.catalog is None,
        "privacy.users, the public number of users": plan.privacy is not None and plan.privacy.users is None,
        "privacy.noise_multiplier": plan.privacy is not None and plan.privacy.noise_multiplier is None,
    }
    return [text for text, is_open in left.items() if is_open]


def _judged(plan: Path | None, verdict: dict[str, Any]) -> list[str]:
    how = "with secure aggregation" if verdict["secure"] else "with unmasked sums"
    reasons = verdict["refusals"]
    lines = [f"\n{plan}, {how}, digest {verdict['digest']}"]
    if reasons:
        lines.append(f"This node would refuse the plan for {len(reasons)} reason{'s' if len(reasons) != 1 else ''}:")
        lines += [f"- {text}." for text in reasons]
    else:
        lines.append("This node would accept this plan from its coordinator.")
    if verdict["open"]:
        lines.append(f"The plan does not set {'; '.join(verdict['open'])}. Setting them changes the digest.")
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@app.command("start")
def start(
    kit: Annotated[Path, typer.Option("--kit", help="Startup kit that the coordinator made for this node.")],
    config: Config = Path("node.toml"),
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Run this node until you stop it with Ctrl-C or a signal."""
    from fedrec.owner.config import NodeConfig

    chosen = NodeConfig.read(config)
    if threads is not None:
        chosen = chosen.model_copy(update={"limits": _fewer_threads(chosen.limits, threads)})
    _with_environment(chosen.limits.environment())
    with on_device(chosen.limits.device, "limits.device in node.toml: "):
        _run(chosen, kit, quiet)


def _run(chosen: NodeConfig, kit: Path, quiet: bool) -> None:
    from fedrec.deploy.node_process import NodeProcess
    from fedrec.deploy.processes import until_stopped
    from fedrec.owner.policy_words import unprotected

    logging.basicConfig(
        level=logging.WARNING if quiet else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        handlers=[logging.StreamHandler(), *_log_file(chosen.home)],
    )
    for text in unprotected(chosen):
        logging.getLogger("fedrec.node").warning("%s", text)
    until_stopped(NodeProcess(chosen, kit).close)


def _fewer_threads(limits: ResourceLimits, threads: int) -> ResourceLimits:
    """The limits with the number of threads of the option, which cannot exceed node.toml."""
    from fedrec.threads import check_threads

    if limits.threads is not None and threads > limits.threads:
        raise InputError(
            f"--threads {threads}: limits.threads in node.toml allows {limits.threads}; raise limits.threads there"
        )
    return limits.model_copy(update={"threads": check_threads(threads, "--threads")})


def _with_environment(wanted: dict[str, str]) -> None:
    """Restart this process if a variable is not set: libraries read the number of threads when they are loaded."""
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, "-m", "fedrec", *sys.argv[1:]], {**os.environ, **wanted})


def _log_file(home: Path) -> list[logging.Handler]:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return [logging.handlers.RotatingFileHandler(home / "node.log", maxBytes=10_000_000, backupCount=5)]
