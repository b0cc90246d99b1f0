"""What pages say of one run, read from its plan, ledger, progress and report. A damaged file is a sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

from fedrec.documents import MOST_LINES, MOST_SETTINGS, parse_json, read_file
from fedrec.errors import FedrecError
from fedrec.federation.ledger_fields import check_fields
from fedrec.federation.run import read_plan
from fedrec.pictures.vector import Series, curves
from fedrec.record.files import LEDGER
from fedrec.record.ledger import read_lines
from fedrec.runs.saved import FEDERATED
from fedrec.serving.pages.homes import Place

__all__ = ["Figure", "Record", "Round", "moved"]

_ROUNDS_SHOWN = 200


@dataclass(frozen=True)
class Figure:
    """A metric of a finished run: part, name, value and standard error, the last one `None` if it is not known."""

    part: str
    metric: str
    value: float
    error: float | None


@dataclass(frozen=True)
class Round:
    """A committed round: its number from 1, clients, nodes that took part, values that did not fit, bytes, digest."""

    number: int
    clients: int
    nodes: tuple[str, ...]
    saturated: int
    up: int
    down: int
    model: str


@dataclass(frozen=True, eq=False)
class Record:
    """One run as pages show it.

    Args:
        name: of the run.
        coordinator: whether this is the coordinator's folder of a federation, which has no users.
        changed: when its ledger was last written, in UTC; empty for a saved model.
        problems: what is damaged or missing.
        model, source, plan: name of the model, its data, and the text of the plan; empty where the plan is damaged.
        figures: metrics of the report.
        rounds: of the ledger.
        validations: metrics by round, from 1.
        report: the report; empty without.
        epsilon: privacy loss of a user if only the model is seen, in words; empty of a run without privacy.
        items: of the catalog; 0 without a report.
        version: of fedrec that trained it.
        digest: of the model that the run ended with; empty without a report.
    """

    name: str
    coordinator: bool
    changed: str = ""
    problems: tuple[str, ...] = ()
    model: str = ""
    source: str = ""
    plan: str = ""
    figures: tuple[Figure, ...] = ()
    rounds: tuple[Round, ...] = ()
    validations: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    epsilon: str = ""
    items: int = 0
    version: str = ""
    digest: str = ""

    @classmethod
    def read(cls, place: Place) -> Record:
        """Read a run; what cannot be read is in `problems`."""
        folder, problems = place.path, list[str]()
        facts: dict[str, Any] = {"coordinator": (folder / FEDERATED).exists()}
        for reads in (_of_plan, _of_ledger, _of_progress, _of_report):
            try:
                facts |= reads(folder)
            except FedrecError as error:
                problems.append(str(error))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                what = reads.__name__.removeprefix("_of_")
                why = str(error) if isinstance(error, OSError | ValueError) else f"a field is missing or wrong: {error}"
                problems.append(f"its {what} cannot be read ({why:.200}); restore it, or train anew")
        return cls(place.name, problems=tuple(problems), **facts)

    @property
    def state(self) -> str:
        """In a word: finished, not finished or damaged."""
        if self.problems:
            return "damaged"
        return "finished" if self.report or not self.rounds else "not finished"

    @property
    def best(self) -> Figure | None:
        """The first metric, of the test part if there is one."""
        order = sorted(self.figures, key=lambda figure: figure.part != "test")
        return order[0] if order else None

    @property
    def sent(self) -> int | None:
        """Bytes that a node sent; `None` of a saved model."""
        return sum(line.up for line in self.rounds) if self.rounds else None

    @property
    def shown(self) -> tuple[Round, ...]:
        """The last rounds, 200 at most."""
        return self.rounds[-_ROUNDS_SHOWN:]

    def took_part(self) -> dict[str, int]:
        """Rounds of each node of a federation."""
        counts: dict[str, int] = {}
        for line in self.rounds:
            for node in line.nodes:
                counts[node] = counts.get(node, 0) + 1
        return dict(sorted(counts.items()))

    def drawings(self) -> list[str]:
        """Validation against rounds and against what a node has sent, as SVG."""
        rounds = [number for number in sorted(self.validations) if number <= len(self.rounds)]
        if not rounds:
            return []
        sent = list(accumulate(line.up / 2**20 for line in self.rounds))
        names = list(self.validations[rounds[0]])
        heights = {name: [self.validations[number].get(name, math.nan) for number in rounds] for name in names}
        against: list[tuple[str, Sequence[float]]] = [
            ("round", rounds),
            ("MiB sent by a node", [sent[number - 1] for number in rounds]),
        ]
        return [
            curves(
                f"Validation of {self.model} against {label}: {', '.join(names)}",
                label,
                "validation",
                [Series(name, places, heights[name]) for name in names],
            )
            for label, places in against
        ]


def moved(amount: int | None) -> str:
    """Bytes for people.

    >>> moved(3 * 2**20), moved(None)
    ('3.00 MiB', '')
    """
    return "" if amount is None else f"{amount / 2**20:,.2f} MiB"


def _of_plan(folder: Path) -> dict[str, Any]:
    plan = read_plan(folder)
    return {"model": str(plan.model["name"]), "source": plan.data.source, "plan": plan.to_yaml()}


def _of_ledger(folder: Path) -> dict[str, Any]:
    path = folder / LEDGER
    if not path.exists():  # a saved model
        return {}
    text = read_file(path, MOST_LINES)
    lines, _ = read_lines(text[: text.rfind(b"\n") + 1], LEDGER, rooted=True)
    check_fields(lines)
    rounds = [line for line in lines if line["kind"] == "round"]
    changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return {"rounds": tuple(map(_round, rounds)), "changed": f"{changed:%Y-%m-%d %H:%M}"}


def _round(line: Mapping[str, Any]) -> Round:
    nodes = line.get("nodes") or [part["node"] for part in line.get("parts", ())]
    sent = line["bytes"]["plain_per_node"]
    return Round(
        line["round"] + 1,
        line["cohort"],
        tuple(map(str, nodes)),
        line["saturated"] or 0,
        sent["up"],
        sent["down"],
        line["model"],
    )


def _of_progress(folder: Path) -> dict[str, Any]:
    path = folder / "progress.jsonl"
    if not path.exists():
        return {}
    text = read_file(path, MOST_LINES).decode("utf-8")
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    measured = {line["round"] + 1: line["metrics"] for line in lines if line["metrics"]}
    return {
        "validations": {
            int(number): {str(name): float(value) for name, value in found.items()}
            for number, found in measured.items()
        }
    }


def _of_report(folder: Path) -> dict[str, Any]:
    path = folder / "report.json"
    if not path.exists():
        return {}
    report = parse_json(read_file(path, MOST_SETTINGS))
    figures = tuple(
        Figure(part, name, float(value), _number(report["standard_error"][part][name]))
        for part, found in report["metrics"].items()
        for name, value in found.items()
        if value is not None
    )
    epsilon = report["privacy"]["epsilons"]["release"] if "privacy" in report else ""
    return {
        "figures": figures,
        "report": report,
        "epsilon": epsilon if isinstance(epsilon, str) else f"{epsilon:.3g}",
        "items": int(report["data"]["items"]),
        "version": str(report["versions"]["fedrec"]),
        "digest": str(report["digests"]["model"]),
    }


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
