"""A node as a party of secure aggregation over a network: one vector at a time, with a lasting record of what the node
revealed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedrec.aggregation.sums import Sum
from fedrec.documents import parse_json, read_file
from fedrec.errors import DamagedError, RunError
from fedrec.federation.masked import layout_of, vectors_of
from fedrec.federation.transcript import Transcript
from fedrec.record.durable import replace_file
from fedrec.record.keys import SigningKey
from fedrec.secagg.client import Client
from fedrec.secagg.policy import Attempts, Floors
from fedrec.secagg.primitives import Identity

__all__ = ["NetworkParty"]


@dataclass(frozen=True, eq=False)
class _Held:
    """A sum that waits to be masked."""

    transcript: Transcript
    total: Sum
    rows: np.ndarray | None
    noise: float
    clients: int
    counts: np.ndarray | None
    along: str | None


class _Revealed(NamedTuple):
    """The call of a sum that was answered, and keys of those among whom."""

    call: str
    among: tuple[str, ...]


class NetworkParty:
    """What a node does in the secure aggregations of one run.

    Of each sum of a run one call is answered, and a vector whose shares were revealed once may be summed again only
    among the same survivors: the difference of two sums over other survivors, or of nearly the same call, would be
    somebody's part. Both records are on the disk before a share is revealed.

    Args:
        key: of the node; it signs as a party too, under labels of its own.
        floors: the owner's.
        declared: number of clients that the node declares where its part is over as many or more; otherwise it
            declares 0.
        path: the record.
    """

    def __init__(self, key: SigningKey, floors: Floors, declared: int, path: Path) -> None:
        self._identity = Identity(key.secret)
        self._floors = floors
        self._declared = declared
        self._path = path
        self._attempts, self._revealed = _read(path)
        self._held: _Held | None = None
        self._client: Client | None = None

    def among(self, sum_of: str, call: str, along: str | None = None) -> list[str] | None:
        """Keys, in hexadecimal, of those among whom the part of a call may be opened; `None` for any.

        Args:
            sum_of: which sum.
            call: digest of the transcript of the call.
            along: the sum that is opened among the same parties, whichever of the two comes first; `None` without one.

        Raises:
            RunError: if another call of this sum was answered.
        """
        revealed, other = self._revealed.get(sum_of), self._revealed.get(along or sum_of)
        if revealed is None:
            return None if other is None else list(other.among)
        if revealed.call != call:
            raise RunError(
                f"the sum of {sum_of} was opened already for another call; two that differ a little could be "
                "subtracted from each other"
            )
        return list(revealed.among)

    def hold(
        self,
        transcript: Transcript,
        total: Sum,
        rows: np.ndarray | None,
        noise: float,
        clients: int,
        counts: np.ndarray | None = None,
        along: str | None = None,
    ) -> None:
        """Take the node's part of a sum, instead of the one before.

        Args:
            transcript: all that was asked.
            total: the part.
            rows: item rows that are summed, of changes of rows.
            noise: least noise multiplier of the sum.
            clients: in the part, or a public number where that is a secret.
            counts: how many clients have each item, where pairs of items take as few bits as that allows.
            along: as of `among`.
        """
        self._held, self._client = _Held(transcript, total, rows, noise, clients, counts, along), None

    def begin(self, call: str) -> None:
        """Get ready for one attempt to sum the part that is held.

        Raises:
            RunError: if it is not the part of this call, or another call of the same sum was answered.
        """
        held = self._held
        if held is None or held.transcript.digest != call:
            raise RunError("the sum of this call is not at hand; ask for it again")
        among = self.among(held.transcript.sum_of, call, held.along)
        model = held.transcript.model
        floors = replace(
            self._floors,
            layout=layout_of(held.total.spec, held.rows, held.counts),
            model=bytes.fromhex(model) if model else bytes(32),
            transcript=bytes.fromhex(call),
            noise=held.noise,
            survivors=None if among is None else frozenset(map(bytes.fromhex, among)),
        )
        clients = self._declared if held.clients >= self._declared else 0
        self._client = Client(self._identity, floors, self._keeper(held), self._attempts, clients)

    def receive(self, frames: Sequence[bytes]) -> list[bytes]:
        """Take frames of the coordinator; returns what goes back, the upload when it is time for it.

        Raises:
            RunError: if no attempt was begun.
            DamagedError: for a frame that is damaged, forged, or out of its turn.
        """
        client, held = self._client, self._held
        if client is None or held is None:
            raise RunError("no secure aggregation was begun")
        said: list[bytes] = []
        for frame in frames:
            said += client.receive(frame)
            if client.wants_values:
                said += [bytes(part) for part in client.upload(vectors_of(held.total, held.rows, held.counts))]
        return said

    @property
    def aborted(self) -> str | None:
        """Why this party left the attempt."""
        return None if self._client is None or self._client.aborted is None else str(self._client.aborted)

    def _keeper(self, held: _Held) -> Callable[[Attempts], None]:
        def keep(attempts: Attempts) -> None:
            revealed = self._revealed
            if attempts.answered != self._attempts.answered and self._client is not None:
                among = tuple(sorted(key.hex() for key in self._client.survivors))
                revealed = {**revealed, held.transcript.sum_of: _Revealed(held.transcript.digest, among)}
            said = {sum_of: [one.call, *one.among] for sum_of, one in revealed.items()}
            data = {"attempts": attempts.to_data(), "revealed": said}
            replace_file(self._path, json.dumps(data).encode() + b"\n", secret=True)
            self._attempts, self._revealed = attempts, revealed

        return keep


def _read(path: Path) -> tuple[Attempts, dict[str, _Revealed]]:
    if not path.exists():
        return Attempts(), {}
    try:
        data: Any = parse_json(read_file(path))
        revealed = {
            str(sum_of): _Revealed(str(call), tuple(map(str, keys)))
            for sum_of, (call, *keys) in data["revealed"].items()
        }
        return Attempts.from_data(data["attempts"]), revealed
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DamagedError):
        raise DamagedError(
            f"{path} is damaged; a party that lost its record may not sum again: give the node a new identity"
        ) from None
