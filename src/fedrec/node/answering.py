"""A call at a node: held to the plan, agreed on by transcript, computed once, and on the disk before it leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.aggregation.wire import decode_sum, encode_sum
from fedrec.errors import DamagedError, PlanError
from fedrec.federation.agreed import check_call
from fedrec.federation.call_fields import Call
from fedrec.federation.calls import CountCall, EvaluationCall, RoundCall
from fedrec.federation.counted import counted_with, counting_spec
from fedrec.federation.measuring import measuring_spec
from fedrec.federation.transcript import Transcript, sum_of_round
from fedrec.node.opening import OpenedHere
from fedrec.node.party import NetworkParty
from fedrec.record.keys import PublicKey
from fedrec.record.notes import Checkpoint

__all__ = ["Answer", "answer_call"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME_LIMIT = 200


@dataclass(frozen=True, eq=False)
class Answer:
    """A node's answer to a call.

    Args:
        transcript: all that was asked, as the node heard it.
        frame: the encoded sum; empty in secure runs, where the sum stays here, to be masked.
        commitments: to the receipt of the sum.
    """

    transcript: Transcript
    frame: bytes
    commitments: tuple[str, ...]


def answer_call(
    opened: OpenedHere,
    call: Call,
    fields: Mapping[str, Any],
    held: Callable[[], AbstractContextManager[None]],
) -> Answer:
    """The node's answer to a call, computed once.

    Whoever asks again, after a crash of either side or a secure aggregation that came to nothing, gets what was kept.

    Args:
        opened: the run.
        call: what is asked.
        fields: the request's, of which the record and the standing of nodes are read.
        held: holds the owner's limits while the node computes.

    Raises:
        PlanError: if the call is not the plan's, leads back, or asks for a sum under a second transcript.
        DamagedError: if the request is not whole.
    """
    call = _held_to_plan(opened, call)
    transcript = _transcript(opened, call, fields)
    if isinstance(call, RoundCall):
        call = replace(call, agreed=transcript.digest)
    round = call.round if isinstance(call, RoundCall) else None
    kept = opened.answers.ask(transcript, round, _committed(opened, call))
    if kept is None:
        with held():
            total = _computed(opened, call)
        frame, commitments = encode_sum(total), total.commitments
        opened.answers.keep(transcript, json.dumps(list(commitments)).encode() + b"\n", frame)
    else:
        head, _, frame = kept.partition(b"\n")
        try:
            commitments = tuple(map(str, json.loads(head)))
        except (ValueError, TypeError):
            raise DamagedError(
                f"the answer of {transcript.sum_of} that this node kept is damaged; begin another run"
            ) from None
    if opened.party is None:
        return Answer(transcript, frame, commitments)
    if kept is not None:
        total = decode_sum(frame, _spec(opened, call))
    _hold(opened, opened.party, call, transcript, total)
    return Answer(transcript, b"", commitments)


def _held_to_plan(opened: OpenedHere, call: Call) -> Call:
    """The call with everything that the node works out itself."""
    agreement = opened.agreement
    check_call(agreement, call, opened.honest)
    if isinstance(call, EvaluationCall):
        return call
    if isinstance(call, CountCall):
        return replace(call, spec=counting_spec(agreement))
    spec = agreement.spec(call.shared, call.round, opened.excess)
    if spec is None or call.spec.digest != spec.digest:
        raise PlanError(f"round {call.round} is asked for with other arrays or another grid than the plan's")
    return replace(call, spec=spec, rows=agreement.rows(call.round))


def _transcript(opened: OpenedHere, call: Call, fields: Mapping[str, Any]) -> Transcript:
    """What all nodes must have heard; the record, of rounds, is checked and taken in on the way."""
    plan, record = opened.agreement.plan, ""
    if isinstance(call, RoundCall):
        checkpoint = Checkpoint.parse(opened.witness.see(fields.get("record")).text)
        if plan.asynchronous is None:  # where sums arrive in their own time, the record grows meanwhile
            record = f"{checkpoint.size} {checkpoint.root.hex()}"
    model = "" if isinstance(call, CountCall) else opened.shared[0]
    standing = _standing(opened, call, fields.get("standing"))
    past = {} if opened.party is None else _past(opened, call, standing, fields.get("past"))
    return Transcript.of(
        call,
        model,
        run=opened.run,
        plan=plan.digest,
        parties=opened.parties,
        record=record,
        past=past,
        standing=standing,
    )


def _standing(opened: OpenedHere, call: Call, said: Any) -> dict[str, int]:
    """Where each node stands, as the coordinator tells all of them.

    Raises:
        DamagedError: if the table is not one.
        PlanError: if it is not of the nodes of the run, or says something else of this node than the call does.
    """
    if isinstance(call, CountCall):
        return {}
    if not isinstance(said, dict) or not all(
        isinstance(name, str) and len(name) <= _NAME_LIMIT and type(round) is int for name, round in said.items()
    ):
        raise DamagedError("a request without the standing of nodes")
    own = opened.node.name
    if said.get(own) != call.committed:
        raise PlanError(
            f"the call says that round {call.committed} is the last one that counts for {own}, and the table that all "
            f"nodes are told says {said.get(own)}"
        )
    names = {PublicKey.parse(text).name for text in opened.parties}
    if names and names != said.keys():
        raise PlanError("the standing of nodes must name exactly the nodes of the secure aggregation")
    return said


def _past(opened: OpenedHere, call: Call, standing: Mapping[str, int], said: Any) -> dict[int, str]:
    """Under which transcripts the rounds that nodes stand after were summed, as the coordinator tells all of them.

    What a node keeps of its clients comes from the rounds that it stands after. Each transcript names those before it,
    so nodes that agree on these agree on all that their rows come from.

    Raises:
        DamagedError: if what is said is not of exactly these rounds.
        PlanError: if this node was asked something else than the others in the round that it stands after.
    """
    rounds = {round for round in standing.values() if round >= 0}
    whole = isinstance(said, dict) and all(isinstance(one, str) and _DIGEST.fullmatch(one) for one in said.values())
    if rounds and not (whole and said.keys() == {str(round) for round in rounds}):
        raise DamagedError("a request without the transcripts of the rounds that nodes stand after")
    past = {round: str(said[str(round)]) for round in rounds}
    if not isinstance(call, CountCall) and call.committed >= 0:
        own = opened.answers.progress.transcripts.get(sum_of_round(call.committed), "")
        if past[call.committed] != own:
            raise PlanError(
                f"round {call.committed} was summed under the transcript {past[call.committed][:12]}…, and this node "
                f"was asked for it under {own[:12] or 'no'}…; its rows are not those of the other nodes' round, and it "
                "is in no sum with them"
            )
    return past


def _committed(opened: OpenedHere, call: Call) -> int:
    return opened.answers.progress.committed if isinstance(call, CountCall) else call.committed


def _computed(opened: OpenedHere, call: Call) -> Sum:
    node = opened.node
    if isinstance(call, RoundCall):
        return node.contribute(call)
    return node.count_items(call) if isinstance(call, CountCall) else node.evaluate(call)


def _hold(opened: OpenedHere, party: NetworkParty, call: Call, transcript: Transcript, total: Sum) -> None:
    """Hand the answer to the party, which masks it."""
    rows, noise = (call.rows, opened.noise(call.round)) if isinstance(call, RoundCall) else (None, 0.0)
    clients = opened.least if noise else total.clients  # the owner's word, not a count, where counts are secrets
    counts = call.counts if isinstance(call, RoundCall) else None
    party.hold(transcript, total, rows, noise, clients, counts, counted_with(opened.agreement, transcript.sum_of))


def _spec(opened: OpenedHere, call: Call) -> SumSpec:
    if isinstance(call, EvaluationCall):
        catalog, split = opened.agreement.catalog, opened.agreement.split
        return measuring_spec(call.metrics, len(catalog), call.n_max, split.positions, call.groups)
    return call.spec
