"""What a run reports of itself: `report.json`, and the object that `--json` prints."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.evaluation.metrics import MetricSummary
from fedrec.federation.calls import Part
from fedrec.federation.coordinator import Coordinator, Trained
from fedrec.federation.measuring import Measured
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.federation.versions import busiest_node
from fedrec.privacy.accounting import Charge
from fedrec.progress import Stopwatch, stage
from fedrec.record.durable import arrays_digest

__all__ = [
    "close_run",
    "groups_in_words",
    "in_words",
    "measured_bytes",
    "measured_parts",
    "merged_in_words",
    "peak_rss_mb",
    "report_of",
    "worth_of",
]

FEW_USERS = 30
"""Figures over fewer users come with a remark."""


def report_of(
    coordinator: Coordinator,
    trained: Trained,
    run: Run,
    folder: Path,
    measured: Mapping[str, Measured],
    home: Mapping[str, Any],
) -> dict[str, Any]:
    """The report of a run; how long it took is put in when its end is near.

    Args:
        measured: what was found, by part.
        home: what is said of where the nodes were.
    """
    plan = run.plan
    rounds = run.ledger.of_kind("round")
    return {
        "run": str(folder),
        "model": coordinator.model.name,
        "leaky": plan.leaky,
        "rounds": trained.rounds,
        "round_kept": trained.round,
        "seconds": 0.0,
        "seconds_of": {},
        "went_on_at_round": None,
        "reproducible": plan.reproducible,
        "step_threads": coordinator.step_threads,
        "protocol": plan.evaluation.protocol,
        "metrics": {part: in_words(found.everyone)[0] for part, found in measured.items()},
        "standard_error": {part: in_words(found.everyone)[1] for part, found in measured.items()},
        "users": {part: _users(found.everyone) for part, found in measured.items()},
        **({} if plan.evaluation.by is None else {"groups": _grouped(plan, measured)}),
        "bytes": measured_bytes(run, trained),
        "peak_rss_mb": peak_rss_mb(),
        "cohort": round(float(np.mean([line["cohort"] for line in rounds])), 1),
        "left_out_clients": sum(line["left_out"] or 0 for line in rounds),
        "saturated": sum(line["saturated"] or 0 for line in rounds),
        **_privacy(plan, run),
        **({"boost": boost} if isinstance(boost := rounds[-1].get("boost"), dict) else {}),
        "warm_start": None
        if plan.warm_start is None
        else {**plan.warm_start.model_dump(), "how": run.ledger.of_kind("start")[0].get("warm_start")},
        **home,
        "digests": {"plan": plan.digest, "model": arrays_digest(trained.state.shared)},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("fedrec", "numpy", "numba", "polars")},
        },
    }


def close_run(run: Run, trained: Trained, report: dict[str, Any], clock: Stopwatch, went_on: int | None) -> None:
    """Write the report of a run that has ended, with the seconds so far, and close the run.

    Args:
        run: whose rounds are done.
        trained: what was trained.
        report: gets `seconds`, `seconds_of` and `went_on_at_round`.
        clock: of the run.
        went_on: rounds that an earlier process had committed; `None` if there was none.
    """
    with stage("write", "writing the run"):
        run.slim(trained.round, trained.state.server)
        digests = run.digests()
        report |= clock.figures() | {"went_on_at_round": went_on}
        run.report(report)
        run.seal(digests)


def measured_parts(coordinator: Coordinator, trained: Trained, there: Iterable[Part]) -> dict[str, Measured]:
    """What is held out, measured: what was found, by part.

    Nothing of a run whose nodes add the noise: metrics are exact sums of users' data, and such a run shows none.
    """
    plan = coordinator.plan
    if plan.privacy is not None and plan.privacy.distributed:
        return {}
    asked = plan.evaluation
    return {
        part: coordinator.measure(
            trained.state, trained.round, part, asked.metrics, asked.protocol, coordinator.agreement.groups
        )
        for part in there
    }


def worth_of(users: int, trained_items: int, split: str, counts: Mapping[str, int], measured: int) -> str | None:
    """What figures of little data are worth, in one remark; `None` where there is nothing to say.

    Args:
        users: of the data.
        trained_items: how many items have training interactions.
        split: as the plan names it.
        counts: interactions by part.
        measured: users whose test items were measured; 0 where no figures were asked for.

    >>> worth_of(500, 90, "ratio:0.8", {"train": 4000, "test": 1000}, 12)
    'little data: the test figures are means over 12 users, so one more hit of one user can move them by 0.083'
    >>> worth_of(500, 90, "ratio:0.8", {"train": 4000, "test": 1000}, 400)
    """
    facts = []
    if users == 1:
        facts.append("there is one user, so nothing is learned from what others like")
    if trained_items < 2:
        have = "item has" if trained_items == 1 else "items have"
        facts.append(f"{trained_items} {have} training interactions, so there is nothing to rank by")
    if split != "none" and not counts.get("test"):
        facts.append(f"split {split} holds nothing out for a test, so there are no test figures")
    elif 0 < measured < FEW_USERS:
        of_users = "1 user" if measured == 1 else f"{measured} users"
        facts.append(
            f"the test figures are means over {of_users}, so one more hit of one user can move them by "
            f"{1 / measured:.2g}"
        )
    return f"little data: {'; '.join(facts)}" if facts else None


def peak_rss_mb() -> float:
    """Peak memory of this process in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def measured_bytes(run: Run, trained: Trained) -> dict[str, dict[str, int]]:
    """Bytes that one node sends and receives over the run, the finished model included once.

    Of an asynchronous run: the node that was in most rounds, whose sums may be shorter than the longest.
    """
    rounds = run.ledger.of_kind("round")
    busiest = busiest_node(rounds)
    if busiest is not None:
        rounds = [line for line in rounds if busiest in [part["node"] for part in line["parts"]]]
    final = rounds[-1].get("model_bytes", sum(array.nbytes for array in trained.state.shared.values()))
    return {
        kind: {
            "up": sum(line["bytes"][kind]["up"] for line in rounds),
            "down": sum(line["bytes"][kind]["down"] for line in rounds) + final,
        }
        for kind in ("plain_per_node", "secure_per_party")
    }


def in_words(found: Mapping[str, MetricSummary]) -> tuple[dict[str, float], dict[str, float | None]]:
    """Values and standard errors by name."""
    return (
        {name: round(summary.value, 6) for name, summary in found.items()},
        {
            name: None if summary.standard_error is None else round(summary.standard_error, 6)
            for name, summary in found.items()
        },
    )


def groups_in_words(by: str, least: int, found: Measured) -> dict[str, Any]:
    """Figures of groups of users.

    Args:
        by: the column.
        least: fewest users of a group that is shown apart.
        found: what was measured.

    Returns:
        `by`; `users`, `metrics` and `standard_error` of each group; names of groups that are `merged` into the others,
        as each has fewer users than `least` or hides others that are too few.
    """
    words = {name: in_words(group) for name, group in found.groups.items()}
    return {
        "by": by,
        "users": {name: _users(group) for name, group in found.groups.items()},
        "metrics": {name: values for name, (values, _) in words.items()},
        "standard_error": {name: errors for name, (_, errors) in words.items()},
        "merged": list(found.merged),
        "least": least,
    }


def merged_in_words(figures: Mapping[str, Any]) -> str:
    """Which groups are among the others, and why; empty where none is.

    Args:
        figures: of `groups_in_words`.

    >>> merged_in_words({"merged": ["F"], "least": 32})
    'others includes the users of F: a group is shown apart only if it and the others have at least 32 users, or none'
    """
    if not figures["merged"]:
        return ""
    return (
        f"others includes the users of {', '.join(figures['merged'])}: a group is shown apart only if it and the "
        f"others have at least {figures['least']} users, or none"
    )


def _grouped(plan: Plan, measured: Mapping[str, Measured]) -> dict[str, Any]:
    return {part: groups_in_words(str(plan.evaluation.by), plan.min_clients, found) for part, found in measured.items()}


def _users(found: Mapping[str, MetricSummary]) -> int:
    return next((summary.users for summary in found.values()), 0)


def _privacy(plan: Plan, run: Run) -> dict[str, Any]:
    """What a private run has cost, and what of the report its promise does not cover."""
    if plan.privacy is None:
        return {}
    charges = [Charge.from_json(line["charge"]) for line in run.ledger.of_kind("round")]
    cost = plan.privacy.cost(charges)
    return {
        "privacy": {
            **plan.privacy.model_dump(mode="json"),
            "epsilons": cost.to_json(),
            "noise_is_secret": run.ledger.of_kind("start")[0]["noise_is_secret"],
            "not_covered": "metrics, users, interactions and split counts of this report are exact; publish model/ and "
            "ledger.jsonl, not this file",
        }
    }
