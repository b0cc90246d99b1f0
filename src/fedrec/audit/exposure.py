"""What malicious clients achieve against a plan: exposure of what they push, and what it costs everybody's ranking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedrec.aggregation.contributions import Contribution, Contributions, Dense, RowUpdates
from fedrec.aggregation.sums import Sum
from fedrec.audit.findings import Finding
from fedrec.audit.poisoning import POISONS, Told
from fedrec.data.interactions import Interactions
from fedrec.engines.local import LocalEngine
from fedrec.errors import InputError
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import RoundCall
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.models.base import queries_of
from fedrec.privacy.chance import SYSTEM, Chance
from fedrec.privacy.guard import clipped
from fedrec.recommending.topk import top_items

__all__ = ["Exposure", "exposed", "poisoned"]

_TARGETS = 5
_AT = 10
_COLD = 1
_PUBLIC = 0.01
_LEAST = 0.02
_LOSS = 0.02


@dataclass(frozen=True)
class Exposure:
    """What came of a training.

    Args:
        ratio: ER@10, the share of users without a target whose ten recommendations have it, mean over targets.
        quality: NDCG@10 under `full`.
    """

    ratio: float
    quality: float


def exposed(
    plan: Plan,
    data: Interactions,
    digest: str,
    attack: str | None = None,
    share: float = 0.0,
    chance: Chance = SYSTEM,
    seed: int = 0,
) -> Exposure:
    """Train a plan with malicious clients beside the users, and measure.

    Args:
        plan: not resolved; its model sums changes of item rows alone.
        data, digest: the users.
        attack: a name of `POISONS`; `None` for an undisturbed training.
        share: malicious clients per user.
        chance: where noise of a private plan comes from.
        seed: of targets (five items that one user has at most) and of the attackers.
    """
    bad = 0 if attack is None else max(1, round(share * data.n_users))
    resolved = plan.model_copy(update={"n_max": data.n_users + bad}).resolve(data, digest)
    engine = LocalEngine.build(data, resolved, chance=chance)
    rng = np.random.Generator(np.random.Philox(seed))
    counts = np.bincount(np.concatenate([shard.clients.items for shard in engine.shards]), minlength=data.n_items)
    cold = np.flatnonzero(counts <= _COLD)
    if len(cold) < _TARGETS:
        cold = np.argsort(counts, kind="stable")[:_TARGETS]
    targets = np.sort(rng.choice(cold, _TARGETS, replace=False))
    joined = engine if attack is None else _WithAttackers(engine, attack, bad, targets, rng)
    agreement = Agreement.of(resolved, data.catalog)
    coordinator = Coordinator(agreement, joined, Run(resolved, None), engine.has_valid, chance=chance)
    trained = coordinator.train()
    quality = coordinator.evaluate(trained.state, trained.round, "test", ["ndcg@10"], "full")["ndcg@10"].value
    shown, without = np.zeros(_TARGETS), np.zeros(_TARGETS)
    for shard in engine.shards:
        everyone = np.arange(len(shard))
        for _, clients, scores in shard.scores(trained.state.shared, trained.round, shard.known, everyone):
            best, _ = top_items(scores, _AT, (clients.indptr, clients.items))
            owners = np.repeat(np.arange(len(clients)), clients.lengths)
            for place, target in enumerate(targets):
                has = np.bincount(owners[clients.items == target], minlength=len(clients)) > 0
                shown[place] += np.count_nonzero((best == target).any(axis=1) & ~has)
                without[place] += np.count_nonzero(~has)
    return Exposure(float((shown / np.maximum(without, 1)).mean()), quality)


def poisoned(
    plan: Plan, data: Interactions, digest: str, attack: str, share: float, clean: Exposure, chance: Chance = SYSTEM
) -> Finding:
    """One attack, against the undisturbed training."""
    found = exposed(plan, data, digest, attack, share, chance)
    limit = max(2.0 * clean.ratio, _LEAST)
    loss = 1.0 - found.quality / max(clean.quality, 1e-12)
    works = found.ratio > limit or loss > _LOSS
    return Finding(
        attack, "clients", f"ER@{_AT} of cold items with {share:.1%} malicious clients", found.ratio, limit,
        "fail" if works else "pass",
        f"{share:.1%} malicious clients bring cold items from {clean.ratio:.2%} of users' first {_AT} to "
        f"{found.ratio:.2%}, and NDCG@10 from {clean.quality:.4f} to {found.quality:.4f} ({-loss:+.1%})",
    )  # fmt: skip


class _WithAttackers(LocalEngine):
    """An engine whose sums have malicious clients in them."""

    def __init__(
        self, engine: LocalEngine, attack: str, count: int, targets: np.ndarray, rng: np.random.Generator
    ) -> None:
        super().__init__(engine.nodes)
        self._attack, self._count = attack, count
        self._targets, self._rng = targets, rng
        self._first: np.ndarray | None = None
        clients = engine.shards[0].clients
        kept = rng.random(len(clients.items)) < _PUBLIC
        owners = np.repeat(np.arange(len(clients)), clients.lengths)
        self._public = np.zeros((len(clients), clients.n_items))
        self._public[owners[kept], clients.items[kept]] = 1.0

    def contribute(self, call: RoundCall) -> list[Sum]:
        """Everybody's sums, and the attackers'."""
        return [*super().contribute(call), self._attackers(call)]

    def _attackers(self, call: RoundCall) -> Sum:
        table = call.shared["items"].astype(np.float64)
        if self._first is None:
            self._first = table
        told = Told(table, self._first, self._targets, self._public, self._rng)
        rows, direction = POISONS[self._attack](told)
        largest = float(np.abs(direction).max())
        if np.isfinite(largest) and self._attack not in ("scaled", "label-flip"):
            direction = direction * (call.spec["items"].bound / max(largest, 1e-300))
        shard = self.shards[0]
        contributions = Contributions(self._arrays(call, rows, direction))
        contributions = shard.release.after(contributions, shard.clients.take(np.zeros(self._count, dtype=np.int64)))
        queries = queries_of(shard.model, call.shared, call.round)
        total = Sum.zeros(call.spec, call.round)
        total.add(clipped(contributions, queries, call.spec))
        return total

    def _arrays(self, call: RoundCall, rows: np.ndarray, direction: np.ndarray) -> dict[str, Contribution]:
        """Every attacker sends the same."""
        count, ones = self._count, np.ones(self._count)
        indptr = np.arange(count + 1, dtype=np.int64) * len(rows)
        items = np.tile(rows, count).astype(np.int32)
        values = np.tile(direction, (count, 1)).astype(np.float32)
        arrays: dict[str, Contribution] = {"items": RowUpdates(indptr, items, values, ones)}
        weight = np.float32(1e6 if self._attack == "count-inflation" else 1.0)
        for name in call.spec.names:
            if name == "weight" and call.spec[name].kind == "dense":
                arrays[name] = Dense(np.full((count, 1), weight), ones)
            elif name == "weight":
                arrays[name] = RowUpdates(indptr, items, np.full((len(items), 1), weight), ones)
            elif name == "within":
                arrays[name] = Dense(np.full((count, 1), 0.5, dtype=np.float32), ones)
            elif name != "items":
                raise InputError(f"poisoning of a model that also sums {name!r} is not built")
        return arrays
