"""What nodes cannot refuse a coordinator that lies, and what of it an owner bounds: thresholds, exact sums, company."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import numpy as np

from fedrec.aggregation.sums import Sum
from fedrec.audit.driven import Driven, honest_round
from fedrec.audit.liar import Liar
from fedrec.audit.staged import Staged
from fedrec.audit.tried import Tried
from fedrec.data.cleaning import Cleaning
from fedrec.federation.calls import RoundCall
from fedrec.federation.masked import vectors_of
from fedrec.federation.messages import Reply
from fedrec.federation.plan import Plan
from fedrec.record.keys import SigningKey
from fedrec.secagg.client import Client
from fedrec.secagg.policy import Floors
from fedrec.secagg.primitives import Identity

__all__ = ["crafted_model", "fake_nodes", "plain_sums", "strangers", "subtracted_runs", "thresholds"]

_ASKINGS = 6
_CHEAP = 1e-3
_EXACT = 0.5


def thresholds(stage: Staged) -> Tried:
    """Open runs under cleanings of the coordinator's choice, private ones for next to nothing, and read off whether
    the first node has as many users with so many interactions as it takes to be spoken of."""
    beyond = None
    if stage.plan.privacy is None:
        beyond = (
            "floors are thresholds; policy.cleaning in node.toml takes the choice of cleanings away, and "
            "policy.openings_per_day bounds the asking"
        )
    tried, name = (
        Tried("exact answers on whether a node has enough users with so many interactions", beyond),
        stage.names[0],
    )
    liar, told, cheap = Liar(stage), dict[int, bool](), _cheap(stage.plan)
    most = int(stage.data[name].lengths.max())
    for least in np.unique(np.linspace(1, most + 1, _ASKINGS).astype(int)).tolist():
        enough = _enough(liar, name, _cleaned(cheap, least), tried)
        if enough is not None:
            told[least] = enough
    answers = list(told.values())
    apart = len(set(answers)) == 2 and answers == sorted(answers, reverse=True)
    for least, enough in told.items():
        if apart:
            tried.got.append(f"{'enough' if enough else 'too few'} with {least}")
        else:
            tried.refused.append("the same, whoever is there")
    return tried


def _cheap(plan: Plan) -> Plan:
    """The plan with noise that makes a run cheap, where it promises privacy."""
    if plan.privacy is None:
        return plan
    terms = plan.privacy.model_copy(update={"epsilon": min(_CHEAP, plan.privacy.epsilon), "noise_multiplier": None})
    return plan.model_copy(update={"privacy": terms}).with_noise()


def _cleaned(plan: Plan, least: int) -> Plan:
    """The plan for users with so many interactions."""
    cleaning = Cleaning(min_user_interactions=least)
    return plan.model_copy(update={"data": plan.data.model_copy(update={"cleaning": cleaning})})


def _enough(liar: Liar, name: str, plan: Plan, tried: Tried) -> bool | None:
    """What a node shows of whether it has enough users; `None` if it refuses to be asked."""
    liar.run = secrets.token_hex(16)
    reply = liar.offer(name, plan)
    text = str(reply.fields.get("text"))
    if reply.problem is not None and "fewer than" in text and "users are here" in text:
        return False
    if reply.problem is None and not liar.stage.secure:
        return True
    if reply.problem is None:
        call = liar.round(0, plan=plan)
        reply = liar.call(name, call)
    if reply.problem is not None:
        tried.answer("", reply)
        return None
    driven = Driven(liar, call, dict.fromkeys(liar.stage.names, reply))
    advert = driven.advert(name, driven.manifest())
    if advert is None:
        tried.opening("", driven)
        return None
    return advert.clients > 0


def plain_sums(stage: Staged) -> Tried | None:
    """Read what each node sends."""
    if stage.secure:
        return None
    bound = f"a sum of at least {stage.plan.min_clients} clients is what a plain federation agrees to show"
    tried = Tried("exact sums of single nodes", f"{bound}; policy.secure = true in node.toml takes masked ones only")
    liar = Liar(stage)
    liar.begin()
    tried.answers("as agreed", liar.all(liar.round(0)))
    return tried


def subtracted_runs(stage: Staged) -> Tried | None:
    """Run the plan over all nodes, and once more without one: what the difference of the sums says of that node."""
    if not stage.secure:
        return None
    liar, left_out = Liar(stage), stage.names[-1]
    bound = "exact sums over overlapping cohorts subtract, which only privacy with noise: distributed bounds"
    tried = Tried("figures of a single node, as the difference of two runs", bound)
    call = liar.round(0)
    liar.begin()
    replies = honest_round(liar, call)
    everybody = Driven(liar, call, replies).open().total
    part = liar.part(left_out, call)
    liar.run = secrets.token_hex(16)
    names = stage.names[:-1]
    fewer = [stage.keys[name] for name in names]
    liar.need({name: liar.offer(name, parties=fewer) for name in names})
    call = liar.round(0, parties=fewer)
    standing = dict.fromkeys(names, -1)
    driven = Driven(liar, call, liar.need({name: liar.call(name, call, standing=standing) for name in names})).open()
    if driven.total is None or everybody is None:
        tried.opening("", driven)
        return tried
    _compared(tried, f"{left_out}'s part", part, everybody, driven.total)
    if everybody.clients - driven.total.clients == part.clients > 0:
        tried.got.append(f"how many clients {left_out} has in the round")
    else:
        tried.refused.append("numbers of clients do not leave nodes")
    return tried


def strangers(stage: Staged) -> Tried | None:
    """Offer the first node a secure sum with nodes of the coordinator's own making, whom its owner did not pin."""
    if not stage.secure:
        return None
    liar, name, fakes = Liar(stage), stage.names[0], _fakes(stage)
    tried = Tried("secure sums with nodes that the owner did not pin")
    tried.answer("among fakes", liar.offer(name, parties=[stage.keys[name], *fakes]))
    liar.run = secrets.token_hex(16)
    tried.answer("with a fake", liar.offer(name, parties=[*stage.keys.values(), fakes[0]]))
    liar.run = secrets.token_hex(16)
    liar.begin()
    call = liar.round(0)
    said = liar.need({name: liar.call(name, call)})
    driven = _WithFakes(liar, call, said, fakes).open()
    tried.opening("by a manifest with fakes", driven, name in driven.survivors)
    return tried


def fake_nodes(stage: Staged) -> Tried | None:
    """Let the first node's owner pin nodes of the coordinator's own making, and open its part among them."""
    if not stage.secure:
        return None
    fakes, name = _fakes(stage), stage.names[0]
    bound = "whom the owner pins as policy.parties in node.toml is all that bounds it"
    liar, tried = Liar(stage, fakes), Tried("parts of one node alone, among fakes", bound)
    company = [stage.keys[name], *fakes]
    liar.need({name: liar.offer(name, parties=company)})
    call = liar.round(0, parties=company)
    said = liar.need({name: liar.call(name, call, standing={key.name: -1 for key in company})})
    driven = _WithFakes(liar, call, said, fakes).open()
    if driven.total is None:
        tried.opening("", driven)
    else:
        words = f"{name}'s part, {'with its own share of noise only' if stage.hidden else 'exactly'}"
        _compared(tried, words, liar.part(name, call), driven.total)
    return tried


def crafted_model(stage: Staged) -> Tried | None:
    """Show all nodes a model of the right shape in which every item has a direction of its own."""
    shared = stage.models[stage.last]
    crafted = {
        name: np.eye(*array.shape, dtype=array.dtype) if array.ndim == 2 and array.dtype.kind == "f" else array
        for name, array in shared.items()
    }
    if all(crafted[name] is shared[name] for name in shared):
        return None
    bound = (
        "privacy's clip and noise, or clip in the plan's release, bound what one user adds"
        if (stage.plan.privacy is None)
        else "the clip and the noise of the plan bound what it says of one user"
    )
    liar, tried = Liar(stage), Tried("answers to a crafted model", bound)
    liar.begin()
    for number in range(stage.last):
        honest_round(liar, liar.round(number))
    tried.answers("of the right shape", liar.all(liar.round(stage.last, model=crafted)))
    return tried


class _WithFakes(Driven):
    """A secure sum among nodes and fakes, which the coordinator plays."""

    def __init__(self, liar: Liar, call: RoundCall, said: Mapping[str, Reply], fakes: Sequence[SigningKey]) -> None:
        reply = next(iter(said.values()))
        super().__init__(liar, call, {**said, **{key.name: reply for key in fakes}})
        self._fakes = {key.name: key for key in fakes}
        pinned = frozenset(self.key(name).public().key for name in self.replies)
        floors = Floors(liar.stage.coordinator.public().key, pinned, clients=0)
        claimed = liar.stage.plan.min_clients
        self._clients = {key.name: Client(Identity(key.secret), floors, lambda _: None, None, claimed) for key in fakes}

    def key(self, name: str) -> SigningKey:
        return self._fakes.get(name) or super().key(name)

    def said(self, name: str, frames: Sequence[bytes], first: bool) -> Sequence[bytes]:
        if name not in self._fakes:
            return super().said(name, frames, first)
        client, found = self._clients[name], list[bytes]()
        for frame in frames:
            found += client.receive(frame)
            if client.wants_values:
                nothing = vectors_of(Sum.zeros(self.call.spec, self.call.round), self.rows)
                found += [bytes(part) for part in client.upload(nothing)]
        return found


def _fakes(stage: Staged) -> list[SigningKey]:
    return [SigningKey(f"fake-{place}", secrets.token_bytes(32)) for place in range(1, len(stage.names))]


def _compared(tried: Tried, words: str, part: Sum, total: Sum, without: Sum | None = None) -> None:
    """Take in whether a part is what was found, number by number."""
    same, count = 0, 0
    for array in part.spec.arrays:
        due, found = part.value(array.name), total.value(array.name)
        found = found if without is None else found - without.value(array.name)
        there = due != 0
        same += int(np.count_nonzero(np.isclose(found, due, rtol=0.0, atol=0.5 / array.unit)[there]))
        count += int(np.count_nonzero(there))
    if count and same / count > _EXACT:
        tried.got.append(words)
    else:
        tried.refused.append(f"{same / max(count, 1):.0%} of its numbers come out")
