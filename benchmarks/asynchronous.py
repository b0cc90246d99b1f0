"""Asynchronous against synchronous `mf` where half the nodes are ten times slower: when do the *slow* nodes' users have
as good a list? One table for each way to spread users.

    python benchmarks/asynchronous.py --data ml-100k --seeds 3
    python benchmarks/asynchronous.py --data ml-1m-sequences --spread taste --only K=5 --every 2

Ten nodes hold equal numbers of interactions, so that they do equal work whenever they work. The slow ones have users of
their own kind: of another `taste` (the other side of the second singular vector of users × items), or `light` users,
with few interactions; with `hash` all nodes are alike. Both ways of training have the same virtual clock,
hyperparameters and evaluation: NDCG@10 in full ranking, inside the nodes, over the slow nodes' users and over the rest.

No node's time is changed by the seed, so curves are means over seeds; then they are smoothed over five rounds of all
nodes, in virtual time. `sync` is taken where it is best on validation, over the slow nodes' users. The row of an
asynchronous training is of the first time at which its slow nodes' users have that NDCG on test, and `ratio` compares
the times; of its best, where it does not get there in 0.7 of the time. `at equal work` is its NDCG after as many sums.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds

import fedrec as fr
from fedrec.data.interactions import Interactions
from fedrec.engines.clock import Clock
from fedrec.engines.local import LocalEngine
from fedrec.engines.virtual import synchronous_seconds
from fedrec.evaluation.metrics import parse_metrics
from fedrec.evaluation.protocols import parse_protocol
from fedrec.federation.calls import EvaluationCall
from fedrec.federation.coordinator import Coordinator, Trained, merged
from fedrec.federation.measuring import Measured
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.models.factors.mf import MF

HERE = Path(__file__).parent
NODES, METRIC = 10, "ndcg@10"
WINDOW = 5.0
"""Rounds of all nodes over which curves are smoothed."""
ENOUGH = 0.7
"""An asynchronous training ends at this share of the time that a synchronous one takes."""
KINDS: dict[str, tuple[dict[str, Any], float]] = {
    "K=5": ({"buffer": 5}, 1.0),
    "K=1": ({"buffer": 1}, 1.0),
    "K=8": ({"buffer": 8}, 1.0),
    "K=5 equal say": ({"buffer": 5, "exponent": 1.0}, 2.0),
    "K=5 constant": ({"buffer": 5, "staleness": "constant"}, 1.0),
    "K=5 paper": ({"buffer": 5, "staleness": "polynomial"}, 1.0),
}
"""Terms of a plan, and what `server_learning_rate` is multiplied by."""


@dataclass(frozen=True)
class Curve:
    """What trainings give over virtual time.

    Args:
        seconds: of every measurement [n].
        sums: of nodes, up to then [n].
        slow, fast, valid: NDCG@10 on test of the slow nodes' users and of the others, and on validation of the slow
            ones' [n].
        window: seconds over which values are smoothed.
    """

    seconds: np.ndarray
    sums: np.ndarray
    slow: np.ndarray
    fast: np.ndarray
    valid: np.ndarray
    window: float

    @classmethod
    def mean(cls, curves: Sequence[Curve], window: float) -> Curve:
        """Of curves with the same times, smoothed."""
        seconds, sums = curves[0].seconds, curves[0].sums
        near = np.abs(seconds[:, None] - seconds[None, :]) <= window / 2
        smoothed = [
            near @ np.mean([getattr(curve, name) for curve in curves], axis=0) / near.sum(axis=1)
            for name in ("slow", "fast", "valid")
        ]
        return cls(seconds, sums, *smoothed, window)

    def reached(self, value: float) -> int | None:
        """The first measurement with a whole window around it at which the slow nodes' users have `value`."""
        whole = self.seconds <= self.seconds[-1] - self.window / 2
        there = np.flatnonzero((self.slow >= value) & whole)
        return int(there[0]) if len(there) else None


def spread(data: Interactions, how: str) -> Interactions:
    """Users with a column `place`: nodes 0 to 4 share one half of the interactions, 5 to 9 the other, equally."""
    lengths = data.lengths.astype(np.int64)
    if how == "taste":
        matrix = csr_array((np.ones(len(data)), data.items, data.indptr), shape=(data.n_users, data.n_items))
        columns = 1 / np.sqrt(np.maximum(matrix.sum(axis=0), 1))
        scaled = csr_array(matrix.multiply(1 / np.sqrt(lengths)[:, None]).multiply(columns))
        left, values, _ = svds(scaled, k=2, v0=np.ones(min(scaled.shape)))
        order = np.argsort(left[:, np.argmin(values)] / np.sqrt(lengths), kind="stable")
    elif how == "hash":
        order = np.random.default_rng(0).permutation(data.n_users)
    else:
        order = np.argsort(-lengths, kind="stable")
    half = int(np.searchsorted(np.cumsum(lengths[order]), lengths.sum() / 2))
    places = np.zeros(data.n_users, dtype=np.int64)
    for first, part in ((0, order[:half]), (NODES // 2, order[half:])):
        loads = np.zeros(NODES // 2)
        for user in part[np.argsort(-lengths[part], kind="stable")]:
            node = int(np.argmin(loads))
            loads[node] += lengths[user]
            places[user] = first + node
    return replace(data, user_features=pl.DataFrame({"place": [f"{place:02d}" for place in places]}))


def train(data: Interactions, plan: Plan, clock: str, every: int, until: float | None = None) -> Curve:
    """Train and measure after every ten sums of nodes, or `every` times as many, to the last round or until a time."""
    resolved = plan.resolve(data, "0" * 64)
    engine = LocalEngine.build(data, resolved, NODES, "by:place")
    engine.clock = Clock.parse(clock, NODES)
    coordinator = Coordinator(resolved.build_model(), data.catalog, engine, Run(resolved, None), engine.has_valid)
    buffer = NODES if resolved.asynchronous is None else resolved.asynchronous.buffer
    every, rounds = every * max(1, NODES // buffer), int(resolved.model["rounds"])
    ends = synchronous_seconds(engine.nodes, engine.clock, 1.0, rounds) if until is None else np.zeros(0)
    found: list[tuple[float, ...]] = []
    for round in range(every, rounds + 1, every):
        trained = coordinator.train(round)
        slow, fast = measured(coordinator, trained, "test")
        valid, _ = measured(coordinator, trained, "valid") if until is None else (0.0, 0.0)
        now = ends[round - 1] if until is None else coordinator.run.ledger.of_kind("round")[-1]["time"]
        found.append((now, round * buffer, slow, fast, valid))
        if until is not None and now >= until:
            break
    return Curve(*np.array(found).T, 0.0)


def measured(coordinator: Coordinator, trained: Trained, part: Any) -> tuple[float, float]:
    """NDCG@10 over the users of the slow nodes and of the others."""
    metrics, limit = parse_metrics([METRIC]), coordinator.plan.n_max or 0
    call = EvaluationCall(trained.rounds - 1, trained.state.shared, part, parse_protocol("full"), metrics, limit)
    sums = coordinator.engine.evaluate(call)
    halves = (sums[NODES // 2 :], sums[: NODES // 2])
    slow, fast = (Measured.of(metrics, merged(half[0].spec, half, 0)).everyone[METRIC].value for half in halves)
    return slow, fast


def compare(
    data: Interactions, clock: str, seeds: int, rounds: int, settings: dict[str, Any], kinds: Sequence[str], every: int
) -> list[dict[str, Any]]:
    """Print and return a row for each kind of training."""

    rate = float(settings.get("server_learning_rate", MF().server_learning_rate))

    def plan(seed: int, rounds: int, terms: dict[str, Any] | None = None, times: float = 1.0) -> Plan:
        model = {"name": "mf", **settings, "rounds": rounds, "server_learning_rate": times * rate}
        return Plan.make({"data": {"source": "memory"}, "model": model, "seed": seed, "asynchronous": terms})

    alone = [train(data, plan(seed, rounds), clock, every) for seed in range(seeds)]
    window = WINDOW * float(alone[0].seconds[0]) / every
    alike = Curve.mean(alone, window)
    best = int(np.argmax(alike.valid))
    target = float(alike.slow[best])
    first = alike.reached(target)
    if first is None:
        print(f"after {rounds} rounds it still got better; give more --rounds")
        first = best
    rows = [said("sync", alike, first, target, alike, first)]
    for kind in kinds:
        until = ENOUGH * alike.seconds[first] + window
        curves = [train(data, plan(seed, 1_000_000, *KINDS[kind]), clock, every, until) for seed in range(seeds)]
        curve = Curve.mean(curves, window)
        rows.append(said(kind, curve, curve.reached(target), target, alike, first))
    return rows


def said(kind: str, curve: Curve, there: int | None, target: float, alike: Curve, first: int) -> dict[str, Any]:
    """A row, printed."""
    shown = int(np.argmax(curve.slow)) if there is None else there
    equal = min(int(np.searchsorted(curve.sums, alike.sums[first])), len(curve.sums) - 1)
    ratio = curve.seconds[shown] / alike.seconds[first]
    row = {
        "kind": kind,
        "target": target,
        "slow": float(curve.slow[shown]),
        "fast": float(curve.fast[shown]),
        "reached": None if there is None else float(curve.seconds[there]),
        "sums": int(curve.sums[shown]),
        "ratio": None if there is None else float(ratio),
        "at_equal_work": float(curve.slow[equal]),
        "curve": {name: np.round(values, 6).tolist() for name, values in vars(curve).items() if name != "window"},
    }
    time = "never" if there is None else f"{ratio:.2f}"
    print(f"{kind:14}{row['slow']:11.4f}{row['fast']:11.4f}{curve.seconds[shown]:10.0f}{row['sums']:7}{time:>8}"
          f"{row['at_equal_work']:15.4f}", flush=True)  # fmt: skip
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ml-100k", help="a named data set or a file")
    parser.add_argument("--spread", default="taste,light,hash", help="ways to spread users")
    parser.add_argument("--only", default=",".join(KINDS), help="kinds of asynchronous training")
    parser.add_argument("--rounds", type=int, default=80, help="rounds of all nodes")
    parser.add_argument("--slower", type=float, default=10.0, help="how much slower half the nodes are")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each kind")
    parser.add_argument("--every", type=int, default=1, help="measure after so many times ten sums of nodes")
    parser.add_argument("--set", action="append", default=[], help="a hyperparameter of mf, such as embedding_size=32")
    arguments = parser.parse_args()
    settings = {key: json.loads(value) for key, _, value in (text.partition("=") for text in arguments.set)}
    data, clock = fr.load_data(arguments.data), f"slow:0.5x{arguments.slower:g}"
    results = {}
    for how in arguments.spread.split(","):
        print(f"\n{arguments.data}, users spread by {how}, {clock}, {arguments.seeds} seeds, mf {settings or ''}")
        print(f"{'':14}{'slow users':>11}{'fast users':>11}{'seconds':>10}{'sums':>7}{'ratio':>8}{'at equal work':>15}")
        placed, kinds = spread(data, how), arguments.only.split(",")
        results[how] = compare(placed, clock, arguments.seeds, arguments.rounds, settings, kinds, arguments.every)
    where = HERE / ".work" / f"asynchronous-{Path(arguments.data).stem}.json"
    where.parent.mkdir(exist_ok=True)
    where.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
