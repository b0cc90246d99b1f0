"""A coordinator that tells nodes of one secure sum unlike things, so that the sum would be one node's part alone.

Each attack lets every node answer what it was told, and then tries to open the parts together: by a manifest that names
one of the transcripts, by one that names another, and by unlike manifests whose keys it mixes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedrec.audit.asked_again import moved
from fedrec.audit.driven import Driven, honest_round, transcript_in
from fedrec.audit.liar import Liar
from fedrec.audit.staged import Staged
from fedrec.audit.tried import Tried
from fedrec.errors import FedrecError, RunError
from fedrec.federation.calls import RoundCall
from fedrec.federation.item_floor import SERVED
from fedrec.federation.messages import Reply
from fedrec.models.base import Arrays, queries_of

__all__ = [
    "other_survivors",
    "unlike_clips",
    "unlike_models",
    "unlike_parties",
    "unlike_past",
    "unlike_plans",
    "unlike_records",
    "unlike_standing",
]

_ENTRY = b"\x02" * 32


def unlike_models(stage: Staged) -> Tried | None:
    """Show the first node the real model and all others nothing, so that only the first adds what says anything."""
    real = stage.models[stage.last]
    nothing = _nothing(stage, real)
    if nothing is None or not stage.secure:
        return None
    return _with_models(stage, "sums over nodes that saw unlike models", real, nothing)


def unlike_clips(stage: Staged) -> Tried | None:
    """Show all nodes but the first a model under which they add less noise: what is left of it is one share."""
    real = stage.models[stage.last]
    quieter = _quieter(stage, real) if stage.secure and stage.hidden else None
    if quieter is None:
        return None
    return _with_models(stage, "sums whose shares of noise have unlike widths", real, quieter)


def _with_models(stage: Staged, what: str, first: Arrays, others: Arrays) -> Tried:
    liar = _begun(stage)
    shown = {name: first if name == stage.names[0] else others for name in stage.names}
    calls = {name: liar.round(stage.last, model=shown[name]) for name in stage.names}
    forged = Tried(what)
    for name in stage.names[1:]:
        forged.answer("under the digest of the first node's model", liar.call(name, calls[name], named=first))
    if forged.got:
        return forged
    tried = _opened(liar, what, calls, {name: liar.call(name, call) for name, call in calls.items()})
    return replace(tried, refused=[*tried.refused, *forged.refused])


def unlike_records(stage: Staged) -> Tried | None:
    """Tell the first node of another record than the others: each would sign a past of its own."""
    if not stage.secure:
        return None
    liar = _begun(stage)
    call = liar.round(stage.last)
    said = {name: liar.call(name, call, record=[] if name == stage.names[0] else [_ENTRY]) for name in stage.names}
    return _opened(liar, "sums over nodes that saw unlike records", dict.fromkeys(stage.names, call), said)


def unlike_standing(stage: Staged) -> Tried | None:
    """Tell the others that the first node stands elsewhere than the first node is told."""
    if not stage.secure:
        return None
    liar, first = _begun(stage), stage.names[0]
    call = liar.round(stage.last)
    table = dict.fromkeys(stage.names, call.committed)
    tables = {name: table if name == first else {**table, first: call.committed + 1} for name in stage.names}
    said = {name: liar.call(name, call, standing=tables[name]) for name in stage.names}
    return _opened(liar, "sums over nodes with unlike tables of standing", dict.fromkeys(stage.names, call), said)


def unlike_past(stage: Staged) -> Tried | None:
    """Ask the first node for a round under another model than the others, commit the round of the others, and go on
    alike: rows of the first node then come from a round that nobody else was in."""
    if not stage.secure or stage.last < 1:
        return None
    liar, first, other = Liar(stage), stage.names[0], moved(stage.models[0])
    call = liar.round(0) if other is None else liar.round(0, model=other)
    record = [_ENTRY] if other is None else []
    liar.begin()
    said = liar.need({name: liar.call(name, call, record=record) for name in stage.names[1:]})
    alone = liar.need({first: liar.call(first, liar.round(0))})
    if Driven(liar, call, said).open().total is None:
        raise RunError("an attack does not get to its point: the round of all nodes but one did not open")
    after, own, theirs = liar.round(1), transcript_in(alone[first]), transcript_in(said[stage.names[1]])
    tried = Tried("sums with a node whose rows come from a round of its own")
    others = {name: liar.call(name, after, record=record) for name in stage.names[1:]}
    for words, past in (("told the others' round", theirs), ("told its own round", own)):
        liar.pretend(first, 0, past)
        reply = liar.call(first, after, record=record)
        if reply.problem is None:
            found = _opened(liar, tried.what, dict.fromkeys(stage.names, after), {first: reply, **others})
            return replace(tried, got=found.got, refused=[*found.refused, *tried.refused])
        tried.answer(words, reply)
    return tried


def unlike_plans(stage: Staged) -> Tried:
    """Offer the first node one plan and the others another under one run; and then each the other's."""
    other = stage.plan.model_copy(update={"seed": stage.plan.seed + 1})
    plans = {name: stage.plan if name == stage.names[0] else other for name in stage.names}
    liar = Liar(stage)
    liar.need({name: liar.offer(name, plan) for name, plan in plans.items()})
    tried = Tried("openings and sums of a run that has two plans")
    if stage.secure:
        calls = {name: liar.round(0, plan=plan) for name, plan in plans.items()}
        said = {name: liar.call(name, call) for name, call in calls.items()}
        tried = _opened(liar, tried.what, calls, said)
    for name, plan in plans.items():
        tried.answer(f"a second plan, by {name}", liar.offer(name, other if plan is stage.plan else stage.plan))
    return tried


def unlike_parties(stage: Staged) -> Tried | None:
    """Offer the first node a secure sum without the last one, and the others one with it, under one run."""
    if not stage.secure:
        return None
    liar, first = Liar(stage), stage.names[0]
    fewer = [stage.keys[name] for name in stage.names[:-1]]
    liar.need({name: liar.offer(name, parties=fewer if name == first else None) for name in stage.names})
    calls = {name: liar.round(0, parties=fewer if name == first else None) for name in stage.names}
    standing = {name: dict.fromkeys(stage.names[:-1] if name == first else stage.names, -1) for name in stage.names}
    said = {name: liar.call(name, call, standing=standing[name]) for name, call in calls.items()}
    tried = _opened(liar, "openings and sums of a run that has two lists of parties", calls, said)
    tried.answer(f"a second list of parties, by {first}", liar.offer(first))
    return tried


def other_survivors(stage: Staged) -> Tried | None:
    """Open a round, and then the same parts without one node, which the difference would show."""
    if not stage.secure:
        return None
    liar, tried = Liar(stage), Tried("second openings of parts, among fewer nodes")
    liar.begin()
    call = liar.round(0)
    honest_round(liar, call)
    said = liar.need(liar.all(call))
    fewer = {name: said[name] for name in stage.names[:-1]}
    tried.opening("by a manifest without one node", Driven(liar, call, fewer).open())
    said = liar.need(liar.all(call))
    tried.opening("with one node that drops out", Driven(liar, call, said).open(silent=stage.names[-1:]))
    return tried


def _begun(stage: Staged) -> Liar:
    """All nodes, before the last round that is asked for."""
    liar = Liar(stage)
    liar.begin()
    for number in range(stage.last):
        honest_round(liar, liar.round(number))
    return liar


def _opened(liar: Liar, what: str, calls: Mapping[str, RoundCall], said: Mapping[str, Reply]) -> Tried:
    """Try to open parts of unlike calls together."""
    tried, names = Tried(what), liar.stage.names
    liar.need(said)
    for name in (names[0], names[-1]):
        driven = Driven(liar, calls[name], said)
        driven.open(driven.manifest(transcript_in(said[name])))
        tried.opening(f"by the manifest of {name}", driven, names[0] in driven.survivors)
    mixing = Driven(liar, calls[names[0]], said)
    manifests = {name: Driven(liar, calls[name], said).manifest(transcript_in(reply)) for name, reply in said.items()}
    along = mixing.go_along(manifests)
    if along:
        tried.got.append(f"by unlike manifests, with which {', '.join(along)} went along")
    else:
        tried.opening("", mixing)
    return tried


def _nothing(stage: Staged, shared: Arrays) -> Arrays | None:
    """A model of the same layout that says nothing, or hardly what the real one says; `None` where there is none."""
    return _changed(stage, shared, [lambda array: np.zeros_like(array), lambda array: array * array.dtype.type(0.999)])


def _changed(stage: Staged, shared: Arrays, ways: Sequence[Callable[[np.ndarray], np.ndarray]]) -> Arrays | None:
    """The model with all its numbers changed in the first way that leaves what is summed as it is."""
    names = [name for name, array in shared.items() if array.dtype.kind == "f" and name not in ("clip", SERVED)]
    if not any(shared[name].any() for name in names):
        return None
    liar = Liar(stage)
    for way in ways:
        other = {**shared, **{name: way(shared[name]) for name in names}}
        try:
            with np.errstate(all="raise"):
                same = liar.round(stage.last, model=other).spec == liar.round(stage.last).spec
            if same:
                return other
        except (FedrecError, ArithmeticError, ValueError):
            continue
    return None


def _quieter(stage: Staged, shared: Arrays) -> Arrays | None:
    """A model whose queries get less noise in the same rings; `None` if the noise depends on no shared array."""
    model, liar, real = stage.agreement.model, Liar(stage), Liar(stage).round(stage.last)
    widest = max(query.clip for query in queries_of(model, shared, stage.last))
    for name, array in shared.items():
        for factor in (64, 16, 4) if array.dtype.kind == "f" else ():
            other = {**shared, name: array / array.dtype.type(factor)}
            try:
                with np.errstate(all="raise"):
                    narrow = max(query.clip for query in queries_of(model, other, stage.last)) < widest
                    rings = [one.ring for one in liar.round(stage.last, model=other).spec.arrays]
            except (FedrecError, ArithmeticError, ValueError):
                continue
            if narrow and rings == [one.ring for one in real.spec.arrays]:
                return other
    return None
