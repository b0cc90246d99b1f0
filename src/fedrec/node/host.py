"""A node's side of a federation: opens runs that its owner allows, answers signed requests, lets only sums out.

The host holds data source, private rows, journals and keys of its owner. It neither knows nor cares how requests come.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrec import __version__
from fedrec.data.interactions import Interactions
from fedrec.documents import read_file
from fedrec.errors import DamagedError, FedrecError, PlanError, RunError
from fedrec.federation.agreed import check_committed
from fedrec.federation.agreement import Agreement
from fedrec.federation.call_fields import decode_call
from fedrec.federation.counted import counted_with
from fedrec.federation.made_of_sum import made_of_sum
from fedrec.federation.messages import (
    Reply,
    Request,
    open_request,
    request_digest,
    unpack_arrays,
)
from fedrec.models.base import Arrays, State
from fedrec.node.answering import answer_call
from fedrec.node.node import Node
from fedrec.node.opening import Offer, OpenedHere, agree, open_run_here
from fedrec.node.openings import Openings
from fedrec.owner.config import NodeConfig
from fedrec.privacy.chance import SYSTEM, Chance
from fedrec.record.durable import arrays_digest, replace_file
from fedrec.record.keys import PublicKey, SigningKey

__all__ = ["NodeHost", "Served"]

_LOG = logging.getLogger("fedrec.node")
_RUN = re.compile(r"[0-9a-f]{16,64}")
_MOST_BYTES = 1 << 34
_MOST_DIGITS = 32


@dataclass(frozen=True, eq=False)
class Served:
    """What a finished run leaves at a node, for whoever saves it so that the node's own users can be served.

    Args:
        folder: where it belongs; its parent is for all that the node serves.
        agreement, node: what was agreed on, and the node with private rows.
        state, kept: the shared arrays, and the round they are of.
        data: the node's interactions.
    """

    folder: Path
    agreement: Agreement
    node: Node
    state: State
    kept: int
    data: Interactions


class NodeHost:
    """Answers a coordinator for one node.

    Args:
        config: the owner's.
        key: the node's identity.
        save: what to do with a finished run.
        chance: where secrets come from.

    Raises:
        PlanError: if the configuration pins no coordinator.
    """

    def __init__(
        self,
        config: NodeConfig,
        key: SigningKey,
        save: Callable[[Served], None] = lambda _: None,
        chance: Chance = SYSTEM,
    ) -> None:
        if config.policy.coordinator is None:
            raise PlanError("policy.coordinator: the key is missing; add the public key of the coordinator")
        self.config = config
        self.session = secrets.token_hex(8)
        self._coordinator = PublicKey.parse(config.policy.coordinator)
        self._key = key
        self._save = save
        self._chance = chance
        self._opened: OpenedHere | None = None
        self._numbers: dict[str, int] = {}
        self._openings = Openings(config.openings_path, config.policy.openings_per_day)
        self._turn = threading.Lock()

    def answer(self, frame: bytes) -> bytes:
        """Answer a request; never raises. Requests take turns."""
        with self._turn:
            return self._answer(frame)

    def _answer(self, frame: bytes) -> bytes:
        name, what, about = self.config.name, "a request", ""
        try:
            request, about = open_request(frame, self._coordinator, _MOST_BYTES)
            what = f"{request.kind} of run {request.run[:8]}"
            self._check_order(request)
            fields, parts = self._steps(request)
            reply = Reply(name, about, None, {**fields, "session": self.session}, parts)
        except Exception as error:  # whatever goes wrong here is told to whoever asked, and the node lives on
            problem, text = _problem(error)
            text = text.replace(str(self.config.home), "HOME")
            _LOG.warning("%s: %s: %s", what, problem, error, exc_info=error if problem == "failed" else None)
            reply = Reply(name, about or request_digest(frame), problem, {"text": text, "session": self.session})
        return reply.sign(self._key)

    def _check_order(self, request: Request) -> None:
        if request.to != self.config.name:
            raise PlanError(f"the request is for node {request.to!r}, but this node is {self.config.name!r}")
        if not _RUN.fullmatch(request.run):
            raise DamagedError("the number of a run must have 16 to 64 hexadecimal digits")
        last = self._numbers.get(request.run)
        if last is None:
            last = _read_number(self._number_path(request.run))
        if request.number <= last:
            raise _RepeatedError(
                f"the node has already received request {request.number} of run {request.run[:8]}; this may be a replay"
            )
        if request.kind == "open":
            self._openings.admit(request.run, self._coordinator)  # else every refused run would leave a folder here
            self._folder(request.run).mkdir(parents=True, exist_ok=True)
            replace_file(self._number_path(request.run), b"%d\n" % request.number)
        self._numbers[request.run] = request.number

    def _steps(self, request: Request) -> tuple[dict[str, Any], Sequence[bytes]]:
        if request.kind == "hello":
            opened = self._opened
            return {"version": __version__, "open": None if opened is None else opened.run}, ()
        if request.kind == "open":
            return self._open(request), ()
        opened = self._opened
        if opened is None or opened.run != request.run:
            raise _NotOpenError("the run is not open at this node")
        if request.kind in ("contribute", "count", "evaluate"):
            return self._sum(opened, request)
        if request.kind == "mask":
            return self._mask(opened, request)
        if request.kind == "witness":
            return {}, [opened.witness.sign(request.fields.get("record"), int(time.time()))]
        if request.kind in ("keep", "finish"):
            return self._settle(opened, request), ()
        raise DamagedError(f"a node cannot answer requests of kind {request.kind!r}")

    def _open(self, request: Request) -> dict[str, Any]:
        """Agree to a plan, load data and found the node; all that can be refused is refused before data is read."""
        fields = request.fields
        if fields.get("version") != __version__:
            raise PlanError(
                f"the coordinator runs fedrec {fields.get('version')}, this node {__version__}; both must run the same "
                "version"
            )
        offer = Offer.read(fields, request.parts)
        folder = self._folder(request.run)
        budget = agree(self.config, offer, request.run, folder, str(self._coordinator))
        opened = self._opened
        if opened is None or opened.run != request.run:
            self._opened = None  # one at a time in memory; the disk keeps the others
            opened = open_run_here(self.config, self._key, offer, request.run, folder, budget, self._chance)
            self._opened = opened
        plan = opened.agreement.plan
        _LOG.info("run %s is open: %s, plan %s", request.run[:8], plan.model["name"], plan.digest[:12])
        return {
            "valid": opened.measures("valid"),
            "test": opened.measures("test"),
            "seen": opened.witness.seen,
            "min_clients": opened.node.floors.min_clients,
        }

    def _sum(self, opened: OpenedHere, request: Request) -> tuple[dict[str, Any], Sequence[bytes]]:
        shared = {} if request.kind == "count" else self._shared(opened, request)
        call = decode_call(request.kind, request.fields, shared)
        answer = answer_call(opened, call, request.fields, self.config.limits.held)
        digest, sum_of = answer.transcript.digest, answer.transcript.sum_of
        fields = {"commitments": list(answer.commitments), "seen": opened.witness.seen}
        if opened.party is None:
            return fields, [answer.frame]
        return {
            **fields,
            "call": digest,
            "among": opened.party.among(sum_of, digest, counted_with(opened.agreement, sum_of)),
        }, ()

    def _mask(self, opened: OpenedHere, request: Request) -> tuple[dict[str, Any], Sequence[bytes]]:
        party = opened.party
        if party is None:
            raise PlanError("this run does not use secure aggregation")
        if request.fields.get("begin"):
            party.begin(str(request.fields.get("call")))
        with self.config.limits.held():
            frames = party.receive(request.parts)
        if party.aborted is not None:
            _LOG.warning("left a secure aggregation: %s", party.aborted)
        return {"aborted": party.aborted}, frames

    def _settle(self, opened: OpenedHere, request: Request) -> dict[str, Any]:
        shared, committed = self._shared(opened, request), _whole(request.fields, "committed")
        if request.kind == "keep":
            check_committed(opened.agreement, committed)
            opened.answers.stand(committed)
            opened.node.keep(shared, committed)
            return {}
        kept = _whole(request.fields, "kept")
        check_committed(opened.agreement, committed, kept)
        opened.answers.finish(committed, kept)
        opened.node.finish(shared, committed, kept)
        folder = self.config.home / "models" / opened.run
        if opened.data.n_users == 0:
            _LOG.warning("run %s is finished; this node has no users to serve with the model", opened.run[:8])
            return {}
        self._save(Served(folder, opened.agreement, opened.node, State(shared), kept, opened.data))
        _LOG.info("run %s is finished; the model is in %s", opened.run[:8], folder.with_name("latest"))
        return {}

    def _shared(self, opened: OpenedHere, request: Request) -> Arrays:
        """The shared arrays that a request means: those that came with it, or those of the last request."""
        digest = request.fields.get("shared", "")
        if digest != opened.shared[0]:
            if not request.parts:
                raise _UnknownModelError("the node does not have the shared arrays that the request names")
            if request.fields.get("made_of") == "sum":
                self._make(opened, str(digest), request.parts[0])
                return opened.shared[1]
            if hashlib.sha256(request.parts[0]).hexdigest() != digest:
                raise DamagedError("the shared arrays do not have the digest that the request names")
            opened.take(str(digest), unpack_arrays(request.parts[0]))
        return opened.shared[1]

    def _make(self, opened: OpenedHere, digest: str, frame: bytes) -> None:
        """Take in the shared arrays that the node makes of a sum, if they are those that are meant."""
        with self.config.limits.held():
            shared = made_of_sum(opened.agreement, frame)
        if arrays_digest(shared) != digest:
            raise _UnknownModelError("the sum makes another model here than at the coordinator")
        opened.take(digest, shared)

    def _folder(self, run: str) -> Path:
        return self.config.home / "runs" / run

    def _number_path(self, run: str) -> Path:
        return self._folder(run) / "number"


class _NotOpenError(FedrecError):
    """The coordinator has to offer the run first."""


class _RepeatedError(FedrecError):
    """Whoever handed the request over had done so before, or keeps old ones."""


class _UnknownModelError(FedrecError):
    """The coordinator has to send the shared arrays again."""


def _problem(error: Exception) -> tuple[str, str]:
    """A word for programs and words for people. What is not an error of fedrec's own may hold data, so only its kind
    is told."""
    kinds: dict[type[FedrecError], str] = {
        _NotOpenError: "not-open", _RepeatedError: "repeated", _UnknownModelError: "unknown-model",
        PlanError: "refused", DamagedError: "damaged", RunError: "failed",
    }  # fmt: skip
    for kind, word in kinds.items():
        if isinstance(error, kind):
            return word, str(error)
    if isinstance(error, MemoryError):
        return "failed", "the node does not have enough memory for the request (limits.memory_gb)"
    return "failed", f"{type(error).__name__}; see the log of the node"


def _read_number(path: Path) -> int:
    try:
        return int(read_file(path, _MOST_DIGITS).decode("ascii"))
    except FileNotFoundError:
        return -1
    except (OSError, ValueError):
        raise DamagedError(f"{path} is damaged") from None


def _whole(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int:
        raise DamagedError(f"the request must have a whole number {name}")
    return value
