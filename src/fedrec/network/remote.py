"""Nodes somewhere else: the coordinator's calls go out as signed messages, and sums come back, plain or masked."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fedrec import __version__
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.aggregation.wire import decode_sum
from fedrec.errors import DamagedError, PlanError, RunError
from fedrec.federation.agreement import Agreement
from fedrec.federation.call_fields import Call, call_fields
from fedrec.federation.calls import CountCall, EvaluationCall, RoundCall
from fedrec.federation.coordinator import kept_round
from fedrec.federation.measuring import measuring_spec
from fedrec.federation.messages import Reply
from fedrec.federation.read_sums import ReadSums
from fedrec.federation.versions import last_part
from fedrec.models.base import Arrays
from fedrec.network.arrivals import NetworkArrivals
from fedrec.network.links import Answers, Links, is_failure
from fedrec.network.post import Failure, Post, by_reason
from fedrec.network.ready import commitments_in
from fedrec.network.secure_sums import AbandonedError, NetworkSums
from fedrec.network.waiting import PATIENT, Waiting
from fedrec.node.opening import honest_of
from fedrec.node.witness import told
from fedrec.record.keys import COSIGNATURE, PublicKey, SigningKey
from fedrec.record.ledger import Ledger
from fedrec.record.signing import LEDGER_NOTE, add_cosignature
from fedrec.secagg.policy import FEWEST_PARTIES

__all__ = ["RemoteEngine"]

_FINISHES = 2
"""How often nodes are told the end: those that miss it once are mostly back a moment later."""


class RemoteEngine:
    """The nodes of a federation, behind a post.

    Every call goes to the nodes that are up. A node that is late, silent, damaged or back again only changes who is in
    the sum, which the ledger says; a round with too few nodes is tried again, and then the run stops, to be resumed.

    Args:
        post: carries frames.
        key: the coordinator's.
        nodes: public keys of all nodes by name.
        run: number of the run, in hexadecimal.
        agreement: the plan and its catalog.
        ledger: of the run; it says who took part in what.
        secure: whether sums are masked.
        waiting: how long, for whom, how often.
        tell: told in words what goes wrong with nodes.
    """

    def __init__(
        self,
        post: Post,
        key: SigningKey,
        nodes: Mapping[str, PublicKey],
        run: str,
        agreement: Agreement,
        ledger: Ledger,
        secure: bool = False,
        waiting: Waiting = PATIENT,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        if secure and len(nodes) < FEWEST_PARTIES:
            raise PlanError(f"the secure sum takes {FEWEST_PARTIES} nodes or more; the federation has {len(nodes)}")
        plan, catalog = agreement.plan, agreement.catalog
        parties = [str(public) for _, public in sorted(nodes.items())] if secure else []
        offer = {
            "version": __version__,
            "plan": json.dumps(plan.model_dump(mode="json")),
            "digest": plan.digest,
            "secure": secure,
            "parties": parties,
        }
        self._links = Links(post, key, nodes, run, (offer, (catalog.to_json_lines(),)), self._on_opened)
        self._run, self._catalog, self._ledger, self._waiting, self._tell = run, catalog, ledger, waiting, tell
        self._plan, self._key, self._nodes = plan, key, nodes
        self._sums = None
        self._parties = None
        self.read = ReadSums()
        if secure:
            who, honest, _ = honest_of(parties)
            self._parties = len(parties), honest, who
            n_max = agreement.n_max
            self._sums = NetworkSums(self._links, key, nodes, run, n_max, waiting.deadline, tell, self.read)
        self._took_part: tuple[str, ...] = ()
        self._said: dict[str, Mapping[str, Any]] = {}
        self._kept: set[tuple[str, int]] = set()
        self._versions: Mapping[str, int] | None = None
        self.unreached: tuple[str, ...] = ()

    def open(self) -> None:
        """Offer the run to all nodes.

        Raises:
            PlanError: if a node refuses it; says which and why.
            RunError: if too few are up.
        """
        for attempt in range(self._waiting.tries):
            answers = self._links.open(self._waiting.deadline)
            self._refused(answers)
            if sum(isinstance(answer, Reply) for answer in answers.values()) >= self._least:
                return
            self._pause(attempt, answers, "the opening")
        raise RunError(f"too few nodes are up to begin: {self._reasons(answers)}")

    def close(self) -> None:
        """Let nodes be."""
        self.arrivals.close()

    @property
    def run(self) -> str:
        """The number under which nodes know the run."""
        return self._run

    @property
    def has_valid(self) -> bool:
        """Whether any node that is up holds out interactions for validation."""
        return any(said.get("valid") for said in tuple(self._said.values()))

    @property
    def has_test(self) -> bool:
        """Whether any node that is up holds out interactions for the test."""
        return any(said.get("test") for said in tuple(self._said.values()))

    @property
    def parties(self) -> tuple[int, int, str] | None:
        """Of a secure run: its nodes, how many are honest and left at least, and a digest of who they are."""
        return self._parties

    @property
    def took_part(self) -> tuple[str, ...]:
        """The nodes that the last sum is over."""
        return self._took_part

    def traffic(self) -> dict[str, dict[str, int]]:
        """Bytes up and down by node."""
        return self._links.traffic()

    def contribute(self, call: RoundCall) -> list[Sum]:
        """The sums of nodes for a round, or the one of all that took part where sums are masked."""
        noise = 0.0 if call.privacy is None or call.privacy.parties is None else call.privacy.noise_multiplier
        what = f"round {call.round}"
        return self._summed("contribute", call, call.spec, what, call.shared, call.round, call.rows, noise, call.groups)

    def count_items(self, call: CountCall) -> list[Sum]:
        """Counts of items."""
        return self._summed("count", call, call.spec, "the counting of items", None)

    def evaluate(self, call: EvaluationCall) -> list[Sum]:
        """Sums of metrics."""
        spec = measuring_spec(call.metrics, len(self._catalog), call.n_max)
        return self._summed("evaluate", call, spec, f"the {call.part} measurement", call.shared)

    @cached_property
    def arrivals(self) -> NetworkArrivals:
        """The nodes as they answer in their own time."""
        wait = self._waiting
        return NetworkArrivals(self._links, self, self._decoded, wait.deadline, wait.pause, wait.tries, self._tell)

    def evaluate_each(self, calls: Mapping[str, EvaluationCall]) -> list[Sum]:
        """Sums of metrics, of nodes that each have a last committed version of their own."""
        self._versions = {name: call.committed for name, call in calls.items()}
        try:
            return self.evaluate(next(iter(calls.values())))
        finally:
            self._versions = None

    def keep_each(self, shared: Arrays, committed: Mapping[str, int]) -> None:
        """Let nodes remember private rows as they are after a version of their own."""
        self._let_keep(shared, {name: committed[name] for name in self._links.present(self._waiting.sign)})

    def not_kept(self, name: str) -> int | None:
        """The version whose private rows a node must keep before another sum of its is used; `None` without one.

        It is the version of its own in the best round so far, of which it has the rows until it goes on from a later
        one: until then, a node that missed its turn to keep them can be told again.
        """
        if self._plan.evaluation.keep != "best" or not self._ledger.of_kind("validation"):
            return None
        round, version = last_part(self._ledger.of_kind("round"), name)
        went_on = round > kept_round(self._plan, self._ledger)
        return None if went_on or (name, version) in self._kept else version

    def has_kept(self, name: str, version: int) -> None:
        """Take in that a node keeps its private rows of a version."""
        self._kept.add((name, version))

    def finish_each(self, shared: Arrays, committed: Mapping[str, int], kept: Mapping[str, int]) -> None:
        """End with the private rows of a version of each node's own."""
        self._end(shared, committed, kept)

    def keep(self, shared: Arrays, committed: int) -> None:
        """Let nodes remember private rows as they are after round `committed`."""
        names = self._links.present(self._waiting.sign)
        self._let_keep(shared, {name: self._counted(name, committed) for name in names})

    def finish(self, shared: Arrays, committed: int, kept: int) -> None:
        """End with the private rows of round `kept`; who cannot be reached gets the model when the run is resumed."""
        names = self._links.names
        self._end(
            shared,
            {name: self._counted(name, committed) for name in names},
            {name: self._counted(name, kept) for name in names},
        )

    def _end(self, shared: Arrays, committed: Mapping[str, int], kept: Mapping[str, int]) -> None:
        answers: Answers = {}
        for _ in range(_FINISHES):
            fields = {
                name: {"committed": committed[name], "kept": kept[name]}
                for name in self._links.present(self._waiting.sign)
                if not isinstance(answers.get(name), Reply)
            }
            answers |= self._links.ask("finish", fields, self._waiting.deadline, shared)
        self.unreached = tuple(name for name in self._links.names if not isinstance(answers.get(name), Reply))
        for name in self.unreached:
            self._tell(
                f"{name} did not get the finished model ({answers.get(name, 'it is not up')}); --resume tries again"
            )

    def _summed(
        self,
        kind: str,
        call: Call,
        spec: SumSpec,
        what: str,
        shared: Arrays | None,
        round: int = 0,
        rows: np.ndarray | None = None,
        noise: float = 0.0,
        groups: int = 1,
    ) -> list[Sum]:
        """Ask until enough nodes have answered, and mask where sums are masked."""
        failed: dict[str, Failure] = {}
        reason = ""
        for attempt in range(self._waiting.tries):
            names = self._links.present(self._waiting.sign)
            if isinstance(call, RoundCall):
                names = self._that_kept(names, call)
            said, standing = call_fields(call), self._standing(call)
            said |= self._past(set(standing.values()))
            fields = {name: {**said, **self._told(name, standing), **self._own(name, call)} for name in names}
            enough = math.ceil(self._waiting.enough * len(self._links.names))
            answers = self._links.ask(kind, fields, self._waiting.deadline, shared, enough=enough)
            good = {name: answer for name, answer in answers.items() if isinstance(answer, Reply)}
            failed = {name: answer for name, answer in answers.items() if isinstance(answer, Failure)}
            answers.clear()  # replies hold whole sums
            for name, reply in good.items():
                self.has_seen(name, reply)
            self._mention(failed, what)
            try:
                if len(good) < self._least:
                    raise AbandonedError(f"{len(good)} of {len(self._links.names)} nodes answered")
                if self._sums is None:
                    sums, names_in = self._plain(good, spec, round)
                else:
                    sums, names_in = self._sums.run(good, spec, round, rows, noise, groups, self._model(call))
                if len(names_in) < self._least:
                    raise AbandonedError(f"{len(names_in)} of {len(self._links.names)} nodes are left in the sum")
            except AbandonedError as error:
                reason = str(error)
                self._tell(f"{what}: {reason}")
                self._refused(failed)
                self._pause(attempt, failed, what)
                continue
            self._took_part = tuple(names_in)
            return sums
        raise RunError(
            f"{what} was tried {self._waiting.tries} times and abandoned: {reason}; {self._least} are needed. "
            f"{self._reasons(failed)}. What was committed is kept: go on with --resume when the nodes are back"
        )

    def _let_keep(self, shared: Arrays, committed: Mapping[str, int]) -> None:
        fields = {name: {"committed": last} for name, last in committed.items()}
        for name, answer in self._links.ask("keep", fields, self._waiting.deadline, shared).items():
            if isinstance(answer, Reply):
                self.has_kept(name, committed[name])

    def _that_kept(self, names: list[str], call: RoundCall) -> list[str]:
        """Nodes without those that the coming round would make forget their private rows of the best round so far.

        A node that missed its turn to keep them, or may have, is told again first.
        """
        if self._plan.evaluation.keep != "best" or not self._ledger.of_kind("validation"):
            return names
        best = kept_round(self._plan, self._ledger)
        last = {name: self._counted(name, best) for name in names}
        lacking = [
            name
            for name in names
            if last[name] == self._counted(name, call.committed) and (name, last[name]) not in self._kept
        ]
        if not lacking:
            return names
        self._let_keep(call.shared, {name: last[name] for name in lacking})
        return [name for name in names if name not in lacking or (name, last[name]) in self._kept]

    def _decoded(self, reply: Reply, spec: SumSpec, round: int) -> Sum:
        """A node's sum in the clear, which is counted as read even if it is of no use."""
        self.read.single()
        return decoded(reply, spec, round)

    def _plain(self, good: dict[str, Reply], spec: SumSpec, round: int) -> tuple[list[Sum], list[str]]:
        """The sums in replies, which are let go one by one; who sent something else is not in it.

        Raises:
            AbandonedError: if they claim more clients than the federation has.
        """
        sums, names = [], []
        for name in list(good):
            try:
                sums.append(self._decoded(good.pop(name), spec, round))
            except DamagedError as error:
                self._tell(f"{name} answered round {round} with something else than its sum: {error}")
                continue
            names.append(name)
        if sum(part.clients for part in sums) > spec.n_max:
            claims = ", ".join(f"{name} {part.clients}" for name, part in zip(names, sums, strict=True))
            raise AbandonedError(f"not all of these are true, as n_max is {spec.n_max}: clients of {claims}")
        return sums, names

    def _standing(self, call: Call) -> dict[str, int]:
        """Of every node, the last round in which its own sum was counted."""
        if isinstance(call, CountCall):
            return {}
        if isinstance(call, EvaluationCall) and self._versions is not None:
            return dict(self._versions)
        return self._all_counted(call.committed)

    def _told(self, name: str, standing: Mapping[str, int]) -> dict[str, Any]:
        """The standing as a node is told: of all nodes, so that they can agree; where sums arrive in their own time, of
        the node alone."""
        if not standing:
            return {}
        told = {name: standing[name]} if self._plan.asynchronous is not None else standing
        return {"standing": told, "committed": standing[name]}

    def _past(self, rounds: set[int]) -> dict[str, Any]:
        """Under which transcripts rounds were summed; of secure sums."""
        if self._sums is None or not rounds:
            return {}
        lines = [line for line in self._ledger.of_kind("round") if line["round"] in rounds]
        return {"past": {str(line["round"]): text for line in lines for text in line.get("transcript", ())}}

    def _own(self, name: str, call: Call) -> dict[str, Any]:
        """What a node alone is told: the part of the record that it has not seen."""
        return self.record(name) if isinstance(call, RoundCall) else {}

    def record(self, name: str) -> dict[str, Any]:
        """What a node is told of the run's record with every call of a round: all that it has not seen."""
        leaves = tuple(self._ledger.leaves)  # it grows while threads read it
        return {"record": told(leaves, min(self._seen(name), len(leaves)), self._key)} if leaves else {}

    def has_seen(self, name: str, reply: Reply) -> None:
        """Take in how much of the record a node says it knows."""
        if "seen" in reply.fields:
            self._said[name] = {**self._said.get(name, {}), "seen": reply.fields["seen"]}

    def _seen(self, name: str) -> int:
        """Entries of the record that a node knows for sure."""
        seen = self._said.get(name, {}).get("seen")
        return seen if type(seen) is int and seen >= 0 else 0

    def cosign(self, folder: Path) -> tuple[str, ...]:
        """Let the nodes that are up sign the record of a finished run, after the coordinator; returns who did."""
        fields = {name: self.record(name) for name in self._links.present(self._waiting.sign)}
        signed = []
        for name, answer in self._links.ask("witness", fields, self._waiting.deadline).items():
            if isinstance(answer, Reply):
                public = PublicKey(name, self._nodes[name].key, COSIGNATURE)
                try:
                    add_cosignature(folder, LEDGER_NOTE, public, answer.parts[0] if answer.parts else b"")
                except DamagedError as error:
                    self._tell(f"{name} sent something else than its signature of the record: {error}")
                else:
                    signed.append(name)
            else:
                self._tell(f"{name} has not signed the record: {answer}")
        return tuple(signed)

    def _counted(self, name: str, committed: int) -> int:
        """The last committed round, not after `committed`, in which a node's sum was counted; −1 for none."""
        return self._all_counted(committed)[name]

    def _all_counted(self, committed: int) -> dict[str, int]:
        """The same of all nodes."""
        found = dict.fromkeys(self._links.names, -1)
        for line in self._ledger.of_kind("round"):
            if line["round"] <= committed:
                found |= {name: int(line["round"]) for name in line.get("nodes", ()) if name in found}
        return found

    @staticmethod
    def _model(call: Call) -> bytes:
        return bytes(32) if isinstance(call, CountCall) else bytes.fromhex(call.model)

    @property
    def _least(self) -> int:
        """Nodes without which a round is abandoned."""
        least = math.ceil(self._waiting.least * len(self._links.names))
        return max(least, FEWEST_PARTIES if self._sums is not None else 1)

    def _on_opened(self, name: str, said: Mapping[str, Any]) -> None:
        if self._sums is not None:
            self._sums.opened(name, said)
        self._said[name] = said

    def _refused(self, answers: Mapping[str, Reply | Failure]) -> None:
        """A refusal is an owner's word: waiting does not change it."""
        reasons = {name: answer for name, answer in answers.items() if is_failure(answer, "refused")}
        if reasons:
            raise PlanError(by_reason(reasons))

    def _mention(self, failed: Mapping[str, Failure], what: str) -> None:
        for name, failure in failed.items():
            if failure.kind != "late":
                self._tell(f"{name} is not in {what}: {failure}")

    def _reasons(self, answers: Mapping[str, Reply | Failure]) -> str:
        failed = {name: str(answer) for name, answer in answers.items() if isinstance(answer, Failure)}
        failed |= {name: why for name, why in self._links.failures().items() if name not in failed}
        return by_reason(dict(sorted(failed.items()))) or "all others answered"

    def _pause(self, attempt: int, answers: Mapping[str, Reply | Failure], what: str) -> None:
        """Wait before another try: at least a moment, and while too few nodes are up."""
        wait = self._waiting
        if attempt + 1 == wait.tries:
            return
        self._tell(f"{what} is tried again in {wait.pause:g} s: {self._reasons(answers)}")
        time.sleep(wait.pause)
        until = time.monotonic() + wait.patience
        while (up := len(self._links.present(wait.sign))) < self._least and time.monotonic() < until:
            left = max(0.0, until - time.monotonic())
            self._tell(f"{up} of {len(self._links.names)} nodes are up; others have {left:.0f} s to be back")
            time.sleep(min(left, max(wait.pause, 1.0)))


def decoded(reply: Reply, spec: SumSpec, round: int) -> Sum:
    """A node's plain sum from its reply.

    Raises:
        DamagedError: if it is not one, is of another round, or the commitment beside it is none.
    """
    total = decode_sum(reply.parts[0] if reply.parts else b"", spec)
    if total.round != round:
        raise DamagedError(f"a sum of round {total.round}")
    total.commitments = commitments_in(reply)
    return total
