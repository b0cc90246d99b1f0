"""Requests of a lying coordinator that nodes cannot refuse, and what an owner can do to limit them."""

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
from fedrec.owner.private_data import TOO_FEW_USERS
from fedrec.record.keys import SigningKey
from fedrec.secagg.client import Client
from fedrec.secagg.policy import Floors
from fedrec.secagg.primitives import Identity

__all__ = ["crafted_model", "fake_nodes", "plain_sums", "strangers", "subtracted_runs", "thresholds"]

_ASKINGS = 6
_CHEAP = 1e-3
_EXACT = 0.5


def thresholds(stage: Staged) -> Tried:
    """Open runs with cleanings that the coordinator chooses, at a small privacy cost, and find out from the answers
    whether the first node has enough users with a minimum number of interactions."""
    beyond = None
    if stage.plan.privacy is None:
        beyond = (
            "a minimum number of clients can always be tested; policy.cleaning in node.toml prevents the choice of "
            "cleanings, and policy.openings_per_day limits the number of tests"
        )
    tried, name = (
        Tried("exact answers whether a node has enough users with a minimum number of interactions", beyond),
        stage.names[0],
    )
    liar, shown, cheap = Liar(stage), dict[int, bool](), _cheap(stage.plan)
    most = int(stage.data[name].lengths.max())
    for least in np.unique(np.linspace(1, most + 1, _ASKINGS).astype(int)).tolist():
        enough = _enough(liar, name, _cleaned(cheap, least), tried)
        if enough is not None:
            shown[least] = enough
    answers = list(shown.values())
    apart = len(set(answers)) == 2 and answers == sorted(answers, reverse=True)
    for least, enough in shown.items():
        if apart:
            tried.got.append(f"{'enough' if enough else 'too few'} users with {least} or more")
        else:
            tried.refused.append("the answer does not depend on the users")
    return tried


def _cheap(plan: Plan) -> Plan:
    """The plan with more noise, so that a run with privacy costs little."""
    if plan.privacy is None:
        return plan
    terms = plan.privacy.model_copy(update={"epsilon": min(_CHEAP, plan.privacy.epsilon), "noise_multiplier": None})
    return plan.model_copy(update={"privacy": terms}).with_noise()


def _cleaned(plan: Plan, least: int) -> Plan:
    """The plan with a minimum number of interactions per user."""
    cleaning = Cleaning(min_user_interactions=least)
    return plan.model_copy(update={"data": plan.data.model_copy(update={"cleaning": cleaning})})


def _enough(liar: Liar, name: str, plan: Plan, tried: Tried) -> bool | None:
    """Whether a node shows that it has enough users; `None` if it refuses the run."""
    liar.run = secrets.token_hex(16)
    reply = liar.offer(name, plan)
    if reply.problem is not None and TOO_FEW_USERS in str(reply.fields.get("text")):
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
    """Read the sums that each node sends."""
    if stage.secure:
        return None
    bound = f"without secure aggregation, nodes agree to show sums of at least {stage.plan.min_clients} clients"
    tried = Tried("exact sums of single nodes", f"{bound}; policy.secure = true in node.toml allows masked sums only")
    liar = Liar(stage)
    liar.begin()
    tried.answers("as agreed", liar.all(liar.round(0)))
    return tried


def subtracted_runs(stage: Staged) -> Tried | None:
    """Run the plan over all nodes and again without one node, and subtract the sums."""
    if not stage.secure:
        return None
    liar, left_out = Liar(stage), stage.names[-1]
    bound = "the difference of two exact sums reveals a node; only privacy with noise: distributed limits this"
    tried = Tried("numbers of a single node, from the difference of two runs", bound)
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
        tried.got.append(f"the number of clients of {left_out} in the round")
    else:
        tried.refused.append("numbers of clients do not leave the nodes")
    return tried


def strangers(stage: Staged) -> Tried | None:
    """Offer the first node secure aggregation with fake nodes, whose keys the owner did not list."""
    if not stage.secure:
        return None
    liar, name, fakes = Liar(stage), stage.names[0], _fakes(stage)
    tried = Tried("secure aggregations with nodes that the owner did not list")
    tried.answer("among fake nodes", liar.offer(name, parties=[stage.keys[name], *fakes]))
    liar.run = secrets.token_hex(16)
    tried.answer("with a fake node", liar.offer(name, parties=[*stage.keys.values(), fakes[0]]))
    liar.run = secrets.token_hex(16)
    liar.begin()
    call = liar.round(0)
    replies = liar.need({name: liar.call(name, call)})
    driven = _WithFakes(liar, call, replies, fakes).open()
    tried.opening("by a manifest with fake nodes", driven, name in driven.survivors)
    return tried


def fake_nodes(stage: Staged) -> Tried | None:
    """Let the first node's owner list fake nodes of the coordinator, and open its part among them."""
    if not stage.secure:
        return None
    fakes, name = _fakes(stage), stage.names[0]
    bound = "only the keys in policy.parties of node.toml limit this; list keys of real owners only"
    liar, tried = Liar(stage, fakes), Tried("parts of a single node, among fake nodes", bound)
    company = [stage.keys[name], *fakes]
    liar.need({name: liar.offer(name, parties=company)})
    call = liar.round(0, parties=company)
    replies = liar.need({name: liar.call(name, call, standing={key.name: -1 for key in company})})
    driven = _WithFakes(liar, call, replies, fakes).open()
    if driven.total is None:
        tried.opening("", driven)
    else:
        words = f"{name}'s part, {'with its own share of noise only' if stage.hidden else 'exact'}"
        _compared(tried, words, liar.part(name, call), driven.total)
    return tried


def crafted_model(stage: Staged) -> Tried | None:
    """Send all nodes a model of the right shape in which every item has its own direction."""
    shared = stage.models[stage.last]
    crafted = {
        name: np.eye(*array.shape, dtype=array.dtype) if array.ndim == 2 and array.dtype.kind == "f" else array
        for name, array in shared.items()
    }
    if all(crafted[name] is shared[name] for name in shared):
        return None
    bound = (
        "privacy in the plan, or clip in its release, would limit what a user adds"
        if (stage.plan.privacy is None)
        else "the clip and the noise of the plan limit what the answers reveal about a user"
    )
    liar, tried = Liar(stage), Tried("answers to a crafted model", bound)
    liar.begin()
    for number in range(stage.last):
        honest_round(liar, liar.round(number))
    tried.answers("of the right shape", liar.all(liar.round(stage.last, model=crafted)))
    return tried


class _WithFakes(Driven):
    """Secure aggregation among real nodes and fake nodes, which the coordinator runs."""

    def __init__(self, liar: Liar, call: RoundCall, replies: Mapping[str, Reply], fakes: Sequence[SigningKey]) -> None:
        reply = next(iter(replies.values()))
        super().__init__(liar, call, {**replies, **{key.name: reply for key in fakes}})
        self._fakes = {key.name: key for key in fakes}
        pinned = frozenset(self.key(name).public().key for name in self.replies)
        floors = Floors(liar.stage.coordinator.public().key, pinned, clients=0)
        claimed = liar.stage.plan.min_clients
        self._clients = {key.name: Client(Identity(key.secret), floors, lambda _: None, None, claimed) for key in fakes}

    def key(self, name: str) -> SigningKey:
        return self._fakes.get(name) or super().key(name)

    def answers(self, name: str, frames: Sequence[bytes], first: bool) -> Sequence[bytes]:
        if name not in self._fakes:
            return super().answers(name, frames, first)
        client, frames_out = self._clients[name], list[bytes]()
        for frame in frames:
            frames_out += client.receive(frame)
            if client.wants_values:
                nothing = vectors_of(Sum.zeros(self.call.spec, self.call.round), self.rows)
                frames_out += [bytes(part) for part in client.upload(nothing)]
        return frames_out


def _fakes(stage: Staged) -> list[SigningKey]:
    return [SigningKey(f"fake-{place}", secrets.token_bytes(32)) for place in range(1, len(stage.names))]


def _compared(tried: Tried, words: str, part: Sum, total: Sum, without: Sum | None = None) -> None:
    """Record whether a part was recovered, number by number."""
    same, count = 0, 0
    for array in part.spec.arrays:
        true, recovered = part.value(array.name), total.value(array.name)
        recovered = recovered if without is None else recovered - without.value(array.name)
        nonzero = true != 0
        same += int(np.count_nonzero(np.isclose(recovered, true, rtol=0.0, atol=0.5 / array.unit)[nonzero]))
        count += int(np.count_nonzero(nonzero))
    if count and same / count > _EXACT:
        tried.got.append(words)
    else:
        tried.refused.append(f"{same / max(count, 1):.0%} of its numbers are recovered")
