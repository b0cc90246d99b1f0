"""Options of a resumed run: options that agree with the run are accepted, others are refused."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedrec.cli.options import assign, assign_settings
from fedrec.data.databases.urls import asks_a_server
from fedrec.errors import FedrecError, InputError, InterruptedRunError
from fedrec.federation.plan import Plan
from fedrec.federation.run import is_run
from fedrec.runs.loading import Placement

__all__ = ["check_resumed", "resumable"]

_FREE = ("out", "resume", "federation", "threads", "device", "budget", "json_", "quiet")
"""Options that may differ when a run is resumed; the budget is checked elsewhere."""
_PLACED = ("nodes", "partition", "secure", "clock")


@contextmanager
def resumable(folder: Path, plan: Plan, federation: Path | None = None) -> Iterator[None]:
    """Explain how to continue a run if it is interrupted.

    Raises:
        InterruptedRunError: instead of `KeyboardInterrupt`.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not is_run(folder):
            raise InterruptedRunError("interrupted before the run began; nothing was saved") from None
        words = ["fedrec", "train", "--resume", "--out", str(folder)]
        words += [] if federation is None else ["--federation", str(federation)]
        words += ["--data", plan.data.source] if federation is None and asks_a_server(plan.data.source) else []
        raise InterruptedRunError(
            f"interrupted; all committed rounds are saved. Continue with: {shlex.join(words)}"
        ) from None


def check_resumed(
    folder: Path,
    chosen: Plan,
    placement: Placement | None,
    options: Mapping[str, str],
    placed: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, Any]],
    assignments: list[str],
) -> None:
    """Check that the options agree with the run that is resumed.

    Args:
        folder: of the run.
        chosen: its plan.
        placement: its nodes; `None` over a federation, whose nodes are not simulated.
        options: options on the command line, by parameter.
        placed: values of `nodes`, `partition`, `secure`, `clock` and `plan`.
        settings: changes of the plan by each other option: values by dotted keys.
        assignments: assignments of `--set`.

    Raises:
        InputError: if options differ from the run; names the options.
    """
    wrong = [
        option
        for name, option in options.items()
        if name not in _FREE and not _agrees(name, chosen, placement, placed, settings, assignments)
    ]
    if wrong:
        raise InputError(
            f"{folder}: a resumed run keeps its plan and its settings, and these options differ from them: "
            f"{', '.join(wrong)}. Remove the options, or start a new run with another --out"
        )


def _agrees(
    name: str,
    chosen: Plan,
    placement: Placement | None,
    placed: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, Any]],
    assignments: list[str],
) -> bool:
    if name in _PLACED:
        return placement is None or getattr(placement, name) == placed[name]
    try:
        if name == "plan":
            return _same(Plan.read(placed["plan"]), chosen)
        changed = chosen.model_dump(mode="json")
        if name == "set_":
            assign_settings(changed, assignments)
        for key, value in settings.get(name, {}).items():
            assign(changed, key.split("."), value, key)
        return _same(Plan.make(changed), chosen)
    except FedrecError:
        return False


def _same(wanted: Plan, kept: Plan) -> bool:
    """Whether a plan equals the plan of the run, apart from keys that the run has filled in."""
    filled = _filled(wanted.model_dump(mode="json"), kept.model_dump(mode="json"))
    try:
        full = Plan.make(filled)
        full = full.model_copy(update={"model": full.whole_model()})
    except FedrecError:
        return False
    plain = set(Plan.model_fields) - {"model", "cohort"}
    return (
        full.build_model() == kept.build_model()
        and full.share() == kept.share()
        and all(getattr(full, name) == getattr(kept, name) for name in plain)
    )


def _filled(wanted: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """The settings with what only a run knows: digests, the most clients, the noise."""
    own: dict[str, Any] = {key: wanted.get(key) or kept.get(key) for key in ("n_max", "catalog", "features")}
    for part, key in (
        ("data", "digest"),
        ("warm_start", "digest"),
        *(("transfer", key) for key in ("digest", "taken", "epsilon", "delta")),
        ("privacy", "noise_multiplier"),
        ("privacy", "users"),
    ):
        if wanted.get(part) is not None and kept.get(part) is not None and wanted[part][key] is None:
            own[part] = own.get(part, wanted[part]) | {key: kept[part][key]}
    return wanted | own
