"""The audit command, which attacks one's own runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrec.cli.options import Device, Json, Named, Plot, Quiet, Threads
from fedrec.cli.output import Output, rows_table

__all__ = ["audit"]


def audit(
    target: Annotated[Path, typer.Argument(metavar="RUN|PLAN", help="Folder of a run, or a plan in YAML.")],
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            help="Name of an attack; poisoning for all poisoning attacks; coordinator for all attacks by a lying "
            "coordinator. Repeat the option for several.",
        ),
    ] = None,
    malicious: Annotated[
        float, typer.Option("--malicious", help="Malicious clients per honest user, for poisoning attacks.")
    ] = 0.01,
    plot: Plot = None,
    data: Named = None,
    threads: Threads = None,
    device: Device = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Repeat a training in memory and attack everything that it releases; exit code 1 if an attack breaks a promise.

    With --attack coordinator, a coordinator with the real key lies to nodes in this process.
    """
    output = Output(json_, quiet)
    output.begin("audit", threads, device=device)
    from rich.markup import escape

    from fedrec.audit.picture import draw
    from fedrec.audit.running import audit as attacked
    from fedrec.federation.plan import Plan
    from fedrec.federation.run import read_plan
    from fedrec.pictures.canvas import check_picture

    if plot is not None:
        check_picture(plot)
    plan = Plan.read(target) if target.is_file() else read_plan(target)
    findings = attacked(
        plan,
        attack,
        told=lambda name: output.remark(f"attack: {name}"),
        folder=target,
        malicious=malicious,
        named=data,
    )
    title = f"{target}: {plan.model['name']}" + (
        ", no privacy"
        if plan.privacy is None
        else f", epsilon {plan.privacy.epsilon:g} at delta {plan.privacy.delta:g}"
    )
    table = rows_table(title, "attack", "by", "measured", "limit", "verdict")
    for finding in findings:
        allowed = "" if finding.limit is None else f"{finding.limit:.4g}"
        table.add_row(finding.attack, finding.against, f"{finding.value:.4g}", allowed, finding.verdict)
    if plot is not None:
        draw(findings, title, plot)
    answer = {
        "target": str(target),
        "model": plan.model["name"],
        "privacy": None if plan.privacy is None else plan.privacy.model_dump(),
        "findings": [
            {key: None if value == float("inf") else value for key, value in finding.to_json().items()}
            for finding in findings
        ],
    }
    output.answer(answer, table, *(escape(f"{finding.attack}: {finding.says}.") for finding in findings))
    if any(finding.verdict == "fail" and (plan.privacy is not None or finding.of_nodes) for finding in findings):
        raise typer.Exit(1)
