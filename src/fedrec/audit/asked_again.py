"""A coordinator that requests more than the plan allows: rounds again, older rounds, other calls, or exact metrics.

Each attack looks for answers whose difference reveals users, or that are over fewer clients or have less noise.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from fedrec.aggregation.queries import deviations
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.audit.driven import honest_round
from fedrec.audit.liar import Liar
from fedrec.audit.staged import Staged
from fedrec.audit.tried import Tried
from fedrec.evaluation.metrics import parse_metrics
from fedrec.evaluation.protocols import Protocol
from fedrec.federation.call_fields import Call
from fedrec.federation.calls import CountCall, EvaluationCall, RoundCall
from fedrec.federation.counted import counts_first
from fedrec.federation.item_floor import ItemFloor, floor_spec
from fedrec.models.base import Arrays, queries_of

__all__ = [
    "again_committed",
    "again_restarted",
    "again_restored",
    "again_rewound",
    "again_unlike",
    "off_plan",
    "older_round",
    "private_metrics",
]

_EXTRA = b"\x01" * 32
_FRESH = 0.5
_FURTHER = "0" * 63 + "1"


def again_committed(stage: Staged) -> Tried | None:
    """Request the last round as if the round before was not committed, and then as if it was: with rows of two rounds
    and the same noise, the difference of the answers would reveal users."""
    if stage.last < 1:
        return None
    liar, tried = Liar(stage), Tried("second answers to a round, after another committed round")
    liar.begin()
    call = liar.round(stage.last, stage.last - 2)
    honest_round(liar, liar.round(stage.last - 1))
    honest_round(liar, call)
    liar.all(liar.round(stage.last - 1))  # its rows would be journalled again; another attack tests the refusal
    tried.answers("committed otherwise", liar.all(replace(call, committed=stage.last - 1)))
    return tried


def again_rewound(stage: Staged) -> Tried:
    """Reset private rows to those that were kept first, by ending the run early, and request the round again."""
    liar, tried = Liar(stage), Tried("answers to a round after private rows were reset")
    liar.begin()
    shared = stage.models[0]
    liar.need({name: liar.settle(name, "keep", shared, committed=-1) for name in stage.names})
    for number in range(stage.last + 1):
        honest_round(liar, liar.round(number))
    for name in stage.names:
        liar.settle(name, "finish", shared, committed=stage.last - 1, kept=-1)
    tried.answers(f"round {stage.last}", liar.all(liar.round(stage.last)))
    return tried


def again_restarted(stage: Staged) -> Tried:
    """Request a round, restart the nodes, and request the round in another form."""
    return _otherwise(stage, restart=True)


def again_unlike(stage: Staged) -> Tried:
    """Request a round, and request it again for another model, with another record, and with other last rounds of other
    nodes."""
    return _otherwise(stage, restart=False)


def _otherwise(stage: Staged, restart: bool) -> Tried:
    liar = Liar(stage)
    tried = Tried("second answers to a round, after a restart" if restart else "second answers to a round")
    liar.begin()
    for number in range(stage.last + 1):
        honest_round(liar, liar.round(number))
    call = liar.round(stage.last)
    if restart:
        liar.restart()
        liar.begin()
    nudged = moved(call.shared)
    if nudged is not None:
        other = liar.round(stage.last, model=nudged)
        tried.answers("for another model", liar.all(other))
    tried.answers("with another record", liar.all(call, record=[_EXTRA]))
    for name in stage.names:
        standing = {each: call.committed + (each != name) for each in stage.names}
        tried.answer("with other last rounds of other nodes", liar.call(name, call, standing=standing))
    return tried


def again_restored(stage: Staged) -> Tried | None:
    """Request a round, let an owner restore an old backup of the home while the data have changed by one user, and
    request the round again: with the same noise, the difference would be that user."""
    if not stage.hidden:
        return None
    liar, name = Liar(stage), stage.names[0]
    tried, call = (
        Tried("second sums of a round with the noise of the first, after a backup was restored"),
        liar.round(0),
    )
    liar.begin()
    backup, later = liar.homes.with_name(f"{liar.homes.name}-backup"), liar.homes / "later.parquet"
    shutil.copytree(liar.homes, backup)
    liar.need({name: liar.call(name, call)})
    before = liar.part(name, call)
    shutil.rmtree(liar.homes)
    shutil.copytree(backup, liar.homes)
    stage.data[name].take_users(np.arange(1, stage.data[name].n_users)).to_frame().write_parquet(later)
    liar.sources[name] = later
    liar.restart()
    reply = liar.offer(name)
    if reply.problem is None:
        reply = liar.call(name, call)
    if reply.problem is not None:
        tried.answer("", reply)
    elif _noise_between(stage, call, before, liar.part(name, call)) < _FRESH:
        tried.got.append("their difference is one user")
    else:
        tried.refused.append("their difference is noise, because different sums get independent noise")
    return tried


def _noise_between(stage: Staged, call: RoundCall, one: Sum, other: Sum) -> float:
    """Mean square of the difference of two sums of a node, in squares of its share of noise: 2 if independent."""
    assert call.privacy is not None
    squares: list[np.ndarray] = []
    for query in queries_of(stage.agreement.model, call.shared, call.round):
        share = query.deviation(call.privacy.noise_multiplier) / math.sqrt(call.privacy.honest or 1)
        for name, metric in query.metrics.items():
            between = (one.value(name) - other.value(name)).reshape(-1)
            squares += [(between[tile] / sds) ** 2 for tile, sds in deviations(metric, call.spec[name], share)]
    return float(np.concatenate(squares).mean())


def older_round(stage: Staged) -> Tried | None:
    """Request a round after a later one: a round that was skipped, and a round that was answered."""
    if stage.last < 1:
        return None
    tried = Tried("answers to a round after a later one")
    for passed_over in (True, False):
        liar = Liar(stage)
        liar.begin()
        if not passed_over:
            honest_round(liar, liar.round(0))
        liar.need(liar.all(liar.round(1, -1 if passed_over else 0)))
        tried.answers("skipped" if passed_over else "answered before", liar.all(liar.round(0)))
    return tried


def off_plan(stage: Staged) -> Tried:
    """Send the first node requests that differ from the plan, each in homes of its own: fewer clients, other arrays and
    rows, groups and grids, less noise, a larger clip, the name of another run, and metrics that were not agreed."""
    liar, tried = Liar(stage), Tried("requests that differ from the plan")
    for words, call in _off(liar):
        fresh, name = Liar(stage, run=liar.run), stage.names[0]
        fresh.need({name: fresh.offer(name)})
        tried.answer(words, fresh.call(name, call))
    return tried


def _off(liar: Liar) -> Iterator[tuple[str, Call]]:
    """Requests that differ from the plan in one point each, with a description."""
    stage = liar.stage
    plan, call = stage.plan, liar.round(0)
    first, rest = call.spec.arrays[0], call.spec.arrays[1:]
    yield "a smaller share of clients", replace(call, share=call.share / 2)
    yield "more groups", replace(call, groups=call.groups + 1)
    yield "a round too many", replace(call, round=10**6)
    yield "a round that follows itself", replace(call, committed=0)
    yield "a change since an earlier run", replace(call, change=True)
    if first.shape[0] > 1:
        yield "fewer rows", _with_array(call, replace(first, shape=(first.shape[0] - 1, *first.shape[1:])), rest)
    yield "a finer grid", _with_array(call, replace(first, scale_bits=first.scale_bits + 1), rest)
    yield "a larger bound", _with_array(call, replace(first, bound=first.bound * 2), rest)
    yield "room for other clients", replace(call, spec=replace(call.spec, n_max=call.spec.n_max * 2))
    if rest:
        yield "fewer arrays", replace(call, spec=SumSpec(rest, call.spec.n_max))
    if call.privacy is not None:
        terms: dict[str, dict[str, Any]] = {
            "less noise": {"noise_multiplier": call.privacy.noise_multiplier / 2},
            "a larger clip in the terms": {"clip": 2.0 * (call.privacy.clip or 1.0)},
            "another delta": {"delta": call.privacy.delta / 2},
            "another run's name": {"run": _FURTHER},
        }
        if stage.hidden:
            terms["other nodes of secure aggregation"] = {"parties": _FURTHER}
            terms["more honest nodes"] = {"honest": (call.privacy.honest or 1) + 1}
        for words, changes in terms.items():
            yield words, replace(call, privacy=replace(call.privacy, **changes))
        yield "no terms of privacy", replace(call, privacy=None)
    if "clip" in call.shared:
        wide = {**call.shared, "clip": call.shared["clip"] * 4}
        yield "a larger clip in the model", liar.round(0, model=wide)
    agreement = stage.agreement
    metrics, n_max = agreement.metrics, agreement.n_max
    measured = EvaluationCall(-1, stage.trained, "test", agreement.protocol, metrics, n_max, 0, groups=agreement.groups)
    yield "other metrics", replace(measured, metrics=(*metrics, *parse_metrics(["coverage@7"])))
    yield "another protocol", replace(measured, protocol=Protocol(1))
    yield "metrics of another number of clients", replace(measured, n_max=n_max + 1)
    if not (stage.secure and counts_first(agreement)):
        floor = plan.items or ItemFloor(least=5)
        yield "counts of items without noise", CountCall(floor_spec(len(stage.catalog), floor, n_max), 0.0)


def _with_array(call: RoundCall, first: ArraySpec, rest: tuple[ArraySpec, ...]) -> RoundCall:
    return replace(call, spec=SumSpec((first, *rest), call.spec.n_max))


def private_metrics(stage: Staged) -> Tried | None:
    """Request the plan's own metrics, which are exact, in a run with privacy."""
    if stage.plan.privacy is None:
        return None
    beyond = None
    if not stage.hidden:
        beyond = (
            "metrics are exact, and central noise does not cover them; privacy.distributed = true in node.toml allows "
            "only plans in which nodes refuse metrics"
        )
    liar, tried = Liar(stage), Tried("exact metrics of a run with privacy", beyond)
    liar.begin()
    honest_round(liar, liar.round(0))
    agreed = stage.agreement
    call = EvaluationCall(0, stage.trained, "test", agreed.protocol, agreed.metrics, agreed.n_max, groups=agreed.groups)
    tried.answers("of the test part", liar.all(call))
    return tried


def moved(shared: Arrays) -> Arrays | None:
    """A slightly changed model; `None` if the model has no number to change."""
    for name, array in shared.items():
        if array.dtype.kind == "f" and array.size and name != "clip":
            other = array.copy()
            other.reshape(-1)[0] += np.asarray(1e-3, dtype=array.dtype)
            return {**shared, name: other}
    return None
