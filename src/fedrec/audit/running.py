"""All attacks on a plan or a run, with one finding each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedrec.aggregation.specs import SumSpec
from fedrec.audit.canaries import canaries
from fedrec.audit.exposure import exposed, poisoned
from fedrec.audit.findings import Finding
from fedrec.audit.lying import LIES, lied_to
from fedrec.audit.membership import membership
from fedrec.audit.neighbours import denominator, untouched
from fedrec.audit.observe import Observed, observe
from fedrec.audit.poisoning import POISONS
from fedrec.audit.recovery import co_occurrences, differencing, singletons
from fedrec.audit.refusals import repeated_round
from fedrec.audit.updates import single_updates
from fedrec.data.digests import digest_of
from fedrec.data.listing import listed
from fedrec.errors import InputError, suggestion
from fedrec.federation.plan import Plan
from fedrec.models.outline import first_sum
from fedrec.models.registry import models_where
from fedrec.privacy.chance import SYSTEM, Chance
from fedrec.runs.kept import Kept
from fedrec.runs.loading import load_plan_data

__all__ = ["ATTACKS", "audit"]

Attack = Callable[[Observed, str, Chance], Finding | None]


def _co_occurrences(observed: Observed, digest: str, chance: Chance) -> Finding | None:
    inverted = "weights" in observed.shared or observed.private
    return co_occurrences(observed) if inverted and "gram" in _first(observed).names else None


def _first(observed: Observed) -> SumSpec:
    return observed.rounds[0].exact.spec


def _counts_clients(spec: SumSpec) -> bool:
    """Whether a sum counts clients per item, and is not a change of a model."""
    return not spec.changes and any(array.kind == "rank_one" for array in spec.arrays)


def _moves_rows(spec: SumSpec) -> bool:
    """Whether what a model moves by is changes of item rows, and nothing else."""
    return spec.changes == ("items",) and spec["items"].kind == "rows"


def _differencing(observed: Observed, digest: str, chance: Chance) -> Finding | None:
    return differencing(observed, digest, chance)


def _singletons(observed: Observed, digest: str, chance: Chance) -> Finding | None:
    return singletons(observed) if _counts_clients(_first(observed)) else None


def _repeated(observed: Observed, digest: str, chance: Chance) -> Finding | None:
    return repeated_round(observed)


def _updates(name: str) -> Attack:
    def attack(observed: Observed, digest: str, chance: Chance) -> Finding | None:
        return single_updates(observed, name) if _moves_rows(_first(observed)) else None

    return attack


def _canaries(observed: Observed, digest: str, chance: Chance) -> Finding | None:
    return canaries(observed, chance)


def _untouched(observed: Observed, digest: str, chance: Chance) -> Finding | None:
    return untouched(observed, chance)


def _denominator(observed: Observed, digest: str, chance: Chance) -> Finding | None:
    return denominator(observed, chance)


def _membership(observed: Observed, digest: str, chance: Chance) -> Finding | None:
    rated = observed.engine.shards[0].model.traits.reads_ratings  # the users of this attack have no ratings
    return membership(observed.plan, chance) if _counts_clients(_first(observed)) and not rated else None


ATTACKS: dict[str, Attack] = {
    "co-occurrences": _co_occurrences,
    "differencing": _differencing,
    "repeated-round": _repeated,
    "singletons": _singletons,
    "touched": _updates("touched"),
    "row-sign": _updates("row-sign"),
    "imia": _updates("imia"),
    "canaries": _canaries,
    "untouched": _untouched,
    "denominator": _denominator,
    "membership": _membership,
}
"""Attacks by name; an attack that does not apply to the model gives no finding."""


def audit(
    plan: Plan,
    attacks: Sequence[str] | None = None,
    chance: Chance = SYSTEM,
    told: Callable[[str], None] = lambda _: None,
    folder: Path = Path(),
    malicious: float = 0.01,
    named: str | None = None,
) -> list[Finding]:
    """Train a plan in this process, in memory, and attack what it releases.

    If nodes add the noise, the audit uses central noise, which has the same distribution with slightly less noise. The
    attacks of a lying coordinator use real nodes, with homes in a temporary folder, and the plan's own noise.

    Args:
        plan: the plan. Its data are read, or the data that its run kept; nothing is written.
        attacks: names of attacks; `poisoning` means all of `POISONS`, `coordinator` all of `LIES`. By default all of
            `ATTACKS`.
        chance: source of the noise of a plan with privacy.
        told: called with each attack's name before it starts.
        folder: folder of the plan's run, which may contain its data.
        malicious: malicious clients per honest user, for poisoning attacks.
        named: the plan's source, if the caller names it; a database server is used only if named.

    Raises:
        InputError: for an unknown attack, or a poisoning attack on a model that does not sum changes of rows.
    """
    chosen = list(ATTACKS) if attacks is None else _named(attacks)
    if not set(POISONS).isdisjoint(chosen) and not _moves_rows(first_sum(plan.build_model())):
        raise InputError(
            "poisoning attacks need a model that sums changes of item rows, such as "
            f"{models_where(lambda model: _moves_rows(first_sum(model)))}; {plan.model['name']} does not"
        )
    if not 0.0 < malicious <= 1.0:
        raise InputError(f"malicious = {malicious:g}: must be above 0 and at most 1 malicious client per honest user")
    kept = Kept.of_run(folder, plan)
    data = load_plan_data(plan.data, folder, named=named).interactions if kept is None else kept.data
    digest = digest_of(data)
    fresh: dict[str, Any] = {"data": plan.data.model_copy(update={"digest": None})}
    lies = [name for name in chosen if name in LIES]
    chosen = [name for name in chosen if name not in LIES]
    if chosen and plan.privacy is not None and plan.privacy.distributed:
        told("noise of the same distribution, added by the coordinator")
        fresh["privacy"] = plan.privacy.model_copy(update={"noise": "central"})
    anew = plan.model_copy(update=fresh)
    findings: list[Finding | None] = []
    if lies:
        findings += lied_to(plan, data, digest, lies, chance, told)
    if not set(ATTACKS).isdisjoint(chosen):
        observed = observe(anew, data, digest, chance)
    if not set(POISONS).isdisjoint(chosen):
        told("training without attack")
        clean = exposed(anew, data, digest, chance=chance)
    for name in chosen:
        told(name)
        if name in ATTACKS:
            findings.append(ATTACKS[name](observed, digest, chance))
        else:
            findings.append(poisoned(anew, data, digest, name, malicious, clean, chance))
    return [finding for finding in findings if finding is not None]


def _named(attacks: Sequence[str]) -> list[str]:
    several = {"poisoning": list(POISONS), "coordinator": list(LIES)}
    choices = [*ATTACKS, *POISONS, *LIES, *several]
    names: list[str] = []
    for name in listed(attacks, "attacks"):
        if name not in choices:
            raise InputError(f"there is no attack {name!r}{suggestion(name, choices)}")
        names += several.get(name, [name])
    return list(dict.fromkeys(names))
