"""All attacks of a lying coordinator with the real key on nodes in this process, with one finding each."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedrec.audit.asked_again import (
    again_committed,
    again_restarted,
    again_restored,
    again_rewound,
    again_unlike,
    off_plan,
    older_round,
    private_metrics,
)
from fedrec.audit.findings import Finding
from fedrec.audit.staged import Staged, modes_of, stage
from fedrec.audit.tried import Tried
from fedrec.audit.unbound import crafted_model, fake_nodes, plain_sums, strangers, subtracted_runs, thresholds
from fedrec.audit.unlike import (
    other_survivors,
    unlike_clips,
    unlike_models,
    unlike_parties,
    unlike_past,
    unlike_plans,
    unlike_records,
    unlike_standing,
)
from fedrec.data.interactions import Interactions
from fedrec.federation.plan import Plan
from fedrec.privacy.chance import SYSTEM, Chance

__all__ = ["LIES", "lied_to"]

LIES: Mapping[str, Callable[[Staged], Tried | None]] = {
    "again-committed": again_committed,
    "again-rewound": again_rewound,
    "again-restarted": again_restarted,
    "again-restored": again_restored,
    "again-unlike": again_unlike,
    "older-round": older_round,
    "off-plan": off_plan,
    "unlike-models": unlike_models,
    "unlike-clips": unlike_clips,
    "unlike-records": unlike_records,
    "unlike-standing": unlike_standing,
    "unlike-past": unlike_past,
    "unlike-plans": unlike_plans,
    "unlike-parties": unlike_parties,
    "other-survivors": other_survivors,
    "strangers": strangers,
    "private-metrics": private_metrics,
    "thresholds": thresholds,
    "crafted-model": crafted_model,
    "subtracted-runs": subtracted_runs,
    "fake-nodes": fake_nodes,
    "plain-sums": plain_sums,
}
"""Attacks by name; an attack that does not apply to a plan or a mode of sums gives no finding."""


def lied_to(
    plan: Plan,
    data: Interactions,
    digest: str,
    names: Sequence[str],
    chance: Chance = SYSTEM,
    told: Callable[[str], None] = lambda _: None,
) -> list[Finding]:
    """Let a coordinator with the real key lie to nodes in this process, in every mode that the plan allows.

    Owners allow this plan only: node.toml lists coordinator, parties, catalog and number of clients, and requires the
    privacy of the plan. Each attack has homes of its own, in a temporary folder.

    Args:
        plan: the plan, not resolved for other data.
        data: all users.
        digest: digest of their data.
        names: names of attacks in `LIES`.
        chance: source of the nodes' secrets.
        told: called with each attack's name before it starts.

    Raises:
        InputError: if no federation can be set up for the plan.
        RunError: if an attack could not start.
    """
    findings = []
    for mode in modes_of(plan):
        with tempfile.TemporaryDirectory(prefix="fedrec-audit-") as folder, _unheard():
            told(f"an honest coordinator, {mode} sums")
            staged = stage(plan, data, digest, mode, Path(folder), chance)
            for name in names:
                title = f"{name} ({mode})"
                told(title)
                tried = LIES[name](staged)
                if tried is not None:
                    findings.append(tried.finding(title))
    return findings


@contextmanager
def _unheard() -> Iterator[None]:
    """Silence the log of the nodes, as the findings report every refusal."""
    log = logging.getLogger("fedrec.node")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
