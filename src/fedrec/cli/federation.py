"""Commands of a coordinator: make a federation, invite nodes, run the server, show the nodes, run a demonstration."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fedrec.cli.options import (
    RENAMED_OPTIONS,
    Device,
    Json,
    Metrics,
    Protocol,
    Quiet,
    Set,
    Split,
    Threads,
    agreed_items,
    build_plan,
    named_model,
    split_list,
)
from fedrec.cli.output import Output, rows_table, seconds_in_words
from fedrec.cli.reading import OnError
from fedrec.errors import InputError

__all__ = ["app"]

app = typer.Typer(
    help="Set up and run a federation of nodes on several machines, for its coordinator.", no_args_is_help=True
)

Folder = Annotated[Path, typer.Argument(metavar="FEDERATION", help="Folder of the federation.")]


@app.command("init", context_settings=RENAMED_OPTIONS)
def init(
    folder: Folder,
    catalog: Annotated[Path, typer.Option("--catalog", help="File of the agreed items, with a column item_id.")],
    max_clients: Annotated[
        int,
        typer.Option("--max-clients", min=1, help="Agreed maximum number of users of all nodes together; public."),
    ],
    host: Annotated[str, typer.Option("--host", help="Name or address at which nodes reach this machine.")],
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="Port of the server; nodes must be able to reach it.")
    ] = 8002,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the federation; name of the folder by default.")
    ] = None,
    on_error: OnError = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a federation: a folder with its settings, the agreed catalog and the coordinator's key."""
    from fedrec.deploy.folder import FederationFolder

    output = Output(json_, quiet)
    items = agreed_items(catalog, on_error, output.warn)
    made = FederationFolder.create(folder, name or folder.resolve().name, host, port, max_clients, items)
    public = str(made.key.public())
    answer = {"federation": str(folder), "name": made.name, "items": len(items), "public_key": public}
    Output(json_, quiet).answer(
        answer,
        f"Made federation {made.name} in {folder}, with {len(items):,} items. Public key of the coordinator, for "
        "policy.coordinator in every node.toml; give it to the owners in person or by telephone:",
        public,
        f"Next: run 'fedrec federation invite {folder} NAME --key KEY' for every node.",
    )


@app.command("invite")
def invite(
    folder: Folder,
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Names of nodes, such as shop-a.")],
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="Public key of a node, which 'fedrec node init' printed; repeat it for each node."),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Invite nodes and make their startup kits; run it again with --key to add keys that were missing."""
    from fedrec.deploy.folder import FederationFolder
    from fedrec.record.keys import PublicKey

    keys = {PublicKey.parse(text).name: text for text in key or []}
    strangers = sorted(set(keys) - set(names))
    if strangers:
        raise InputError(f"--key: {', '.join(strangers)} is not among the NAMEs of this command; add the name")
    grown = FederationFolder.open(folder).invite({node: keys.get(node, "") for node in names})
    ends = grown.valid_until()
    table = rows_table(f"{grown.name}: {len(grown.nodes)} nodes", "node", "key", "startup kit", "valid until")
    for node, text in sorted(grown.nodes.items()):
        table.add_row(node, "known" if text else "missing", str(folder / "kits" / node), _day(ends[node]))
    kits = {node: str(folder / "kits" / node) for node in grown.nodes}
    public = str(grown.key.public())
    answer = {
        "federation": str(folder),
        "nodes": {node: bool(text) for node, text in grown.nodes.items()},
        "kits": kits,
        "valid_until": {node: None if end is None else end.isoformat() for node, end in ends.items()},
        "public_key": public,
    }
    output = Output(json_, quiet)
    output.answer(
        answer,
        table,
        "A startup kit contains a secret key. Give it to the owner of its node only, as you would a password.",
        f"Public key of the coordinator, for policy.coordinator in every node.toml: {public}",
    )
    grown.check_own_kits(output.warn)
    grown.warn_of_nodes(output.warn)


@app.command("remove")
def remove(
    folder: Folder,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the node.")],
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove a node from the federation; later runs do not include it."""
    from fedrec.deploy.folder import FederationFolder

    left = FederationFolder.open(folder).remove(name)
    Output(json_, quiet).answer(
        {"federation": str(folder), "nodes": sorted(left.nodes)},
        f"Removed {name}; the federation has {len(left.nodes)} nodes.",
    )


@app.command("start")
def start(folder: Folder, quiet: Quiet = False) -> None:
    """Run the federation's server until you stop it with Ctrl-C or a signal."""
    from fedrec.deploy.folder import FederationFolder
    from fedrec.deploy.processes import until_stopped
    from fedrec.deploy.server_process import ServerProcess

    output = Output(False, quiet)
    federation = FederationFolder.open(folder)
    server = ServerProcess(federation, output.warn)
    output.remark(
        f"{federation.name}: the server listens on port {federation.port}. Its certificate is valid until "
        f"{server.expires:%Y-%m-%d}. NVFlare's log is {server.log}"
    )
    until_stopped(server.close)


@app.command("status")
def status(folder: Folder, json_: Json = False, quiet: Quiet = False) -> None:
    """Show which nodes are connected to the server."""
    from fedrec.deploy.folder import FederationFolder
    from fedrec.network.nvflare.admin import who_is_up

    output = Output(json_, quiet)
    federation = FederationFolder.open(folder)
    own = federation.check_own_kits(output.warn)
    federation.warn_of_nodes(output.warn)
    up, ends = who_is_up(federation.admin_kit), federation.valid_until()
    title = f"{federation.name}, port {federation.port}, certificates valid until {_day(own)}"
    table = rows_table(title, "node", "key", "connected", "kit valid until")
    for node, text in sorted(federation.nodes.items()):
        table.add_row(node, "known" if text else "missing", "yes" if node in up else "no", _day(ends[node]))
    answer = {
        "federation": str(folder),
        "valid_until": own.isoformat(),
        "nodes": {node: {"key": bool(text), "connected": node in up} for node, text in federation.nodes.items()},
    }
    output.answer(answer, table)


def _day(end: datetime | None) -> str:
    return "unknown" if end is None else f"{end:%Y-%m-%d}"


@app.command("demo")
def demo(
    nodes: Annotated[int, typer.Option("--nodes", min=1, max=20, help="Number of nodes.")] = 3,
    data: Annotated[str, typer.Option("--data", help="Data to spread over the nodes.")] = "synthetic:users=2000",
    model: Annotated[
        str, typer.Option("--model", callback=named_model, help="Name of the model; 'fedrec models' lists them.")
    ] = "ease",
    set_: Set = None,
    split: Split = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of all random draws.")] = None,
    secure: Annotated[bool, typer.Option("--secure", help="Use secure aggregation; needs at least 3 nodes.")] = False,
    protocol: Protocol = None,
    metrics: Metrics = None,
    keep: Annotated[Path | None, typer.Option("--keep", help="New folder in which all files are kept.")] = None,
    threads: Threads = None,
    device: Device = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a whole federation on this machine, with real processes and certificates, and stop it at the end."""
    output = Output(json_, quiet)
    _, watch = output.begin("demo", threads, device=device)
    from fedrec.deploy.demo import play
    from fedrec.federation.plan import Plan
    from fedrec.federation.read_sums import read_in_words

    logging.basicConfig(level=logging.ERROR)
    settings = {
        "split": split,
        "seed": seed,
        "evaluation.protocol": protocol,
        "evaluation.metrics": split_list(metrics),
    }
    plan: Plan = build_plan(None, {"source": data}, model, settings, set_ or [])
    report = play(plan, nodes, secure, keep, watch, output.remark, threads)
    table = rows_table(f"{report['model']} over {nodes} nodes", "metric", "test")
    for name, value in report["metrics"].get("test", {}).items():
        table.add_row(name, f"{value:.4f}")
    shown: list[Any] = [table]
    for node, rows in report["recommended"].items():
        first = rows[0] if rows else None
        if first is not None:
            shown.append(f"{node} recommends to user {first['user_id']}: {', '.join(str(r['item_id']) for r in rows)}")
    noised = plan.privacy is not None and plan.privacy.distributed
    shown.append(read_in_words(report["federation"]["read"], noised))
    if report["same_as_local"] is not None:
        same = "equal, byte for byte, to" if report["same_as_local"] else "NOT equal to"
        shown.append(f"The model is {same} the model that a single process trains from the same plan.")
    shown.append(
        f"The run took {seconds_in_words(report)}; with starting and stopping all processes it took "
        f"{report['seconds_in_all']:.1f} s."
    )
    output.answer(report, *shown)
