"""Secure aggregation between parties in one process, with the same frames as over a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedrec.errors import PlanError, RunError
from fedrec.secagg.client import Client
from fedrec.secagg.graph import COLLUDING
from fedrec.secagg.layout import Layout, Slot
from fedrec.secagg.manifest import invite
from fedrec.secagg.policy import Attempts, Floors
from fedrec.secagg.primitives import Identity
from fedrec.secagg.reasons import Abort
from fedrec.secagg.server import Frames, Server
from fedrec.secagg.uploading import Values

__all__ = ["Outcome", "Party", "run_round", "secure_sum"]


@dataclass(repr=False)
class Party:
    """A party in this process, with its record of attempts over several sums.

    Args:
        identity: long-term key pair of the party.
        clients: number of clients that the party declares; public.
        attempts: the record of attempts.
        persist: called with each new record; must return only when the record is safe.
    """

    identity: Identity
    clients: int = 0
    attempts: Attempts | None = None
    persist: Callable[[Attempts], None] | None = None

    def keep(self, attempts: Attempts) -> None:
        """Store a new record of attempts."""
        if self.persist is not None:
            self.persist(attempts)
        self.attempts = attempts


@dataclass(frozen=True)
class Outcome:
    """The result of secure aggregation.

    Args:
        arrays: the sum by name, unsigned and flat; `None` after an abort.
        aborted: why there is no sum.
        survivors: indices of the parties whose vectors were summed.
        left: reasons of the parties that left by themselves.
        upload_bytes: bytes that the party with the largest upload sent.
        download_bytes: bytes that the party with the largest download received.
    """

    arrays: dict[str, np.ndarray] | None
    aborted: Abort | None
    survivors: tuple[int, ...]
    left: Mapping[int, Abort]
    upload_bytes: int
    download_bytes: int


def secure_sum(
    vectors: Sequence[Mapping[str, np.ndarray]],
    *,
    run: str,
    round: int,
    parties: Sequence[Party],
    coordinator: Identity,
    min_clients: int = 32,
    noise: float = 0.0,
    colluding: float = COLLUDING,
    dropping: float = 0.1,
    model: bytes = bytes(32),
) -> dict[str, np.ndarray]:
    """Add the vectors of parties in this process by secure aggregation.

    Args:
        vectors: for each party, contiguous arrays of 32- or 64-bit integers by name, with equal names and shapes.
        run: name of the run.
        round: number of the sum in the run; a party begins each number once.
        parties: the parties in the order of the vectors; each knows the keys of all others.
        coordinator: key pair of the coordinator.
        min_clients: minimum number of clients that the parties declare together.
        noise: noise multiplier of the sum of all vectors.
        colluding: see `fedrec.secagg.graph.topology`.
        dropping: see `fedrec.secagg.graph.topology`.
        model: SHA-256 of the model from which the vectors were computed.

    Returns:
        The sums modulo 2^32 or 2^64, with the names, shapes and types of the vectors.

    Raises:
        PlanError: for fewer than 3 parties, or if the number of vectors is not the number of parties.
        RunError: if secure aggregation failed; the text says why.

    Example:
        >>> parties = [Party(Identity(), clients=20) for _ in range(3)]
        >>> vectors = [{"x": np.array([index, -index], dtype=np.int32)} for index in range(3)]
        >>> secure_sum(vectors, run="r", round=0, parties=parties, coordinator=Identity())
        {'x': array([ 3, -3], dtype=int32)}
    """
    if len(vectors) != len(parties) or len(parties) < 3:
        raise PlanError(
            f"secure aggregation needs 3 or more parties with one vector each, not {len(parties)} with {len(vectors)}"
        )
    first = vectors[0]
    layout = Layout(tuple(Slot(name, array.size, 8 * array.itemsize) for name, array in first.items()))
    keys = [party.identity.public for party in parties]
    manifest = invite(
        run,
        round,
        coordinator.public,
        keys,
        layout,
        model=model,
        min_clients=min_clients,
        noise=noise,
        colluding=colluding,
        dropping=dropping,
    )
    floors = Floors(
        coordinator.public,
        frozenset(keys),
        clients=min_clients,
        noise=noise,
        colluding=colluding,
        dropping=dropping,
        layout=layout,
    )
    clients = [Client(party.identity, floors, party.keep, party.attempts, party.clients) for party in parties]
    outcome = run_round(Server(manifest, coordinator), clients, vectors)
    if outcome.arrays is None:
        reasons = "; ".join(str(abort) for abort in (outcome.aborted, *outcome.left.values()) if abort is not None)
        raise RunError(f"secure aggregation of round {round} failed: {reasons}")
    return {name: outcome.arrays[name].view(array.dtype).reshape(array.shape) for name, array in first.items()}


def run_round(server: Server, clients: Sequence[Client], values: Sequence[Values]) -> Outcome:
    """Run one sum among clients in this process; each client has one turn per stage.

    Args:
        server: a new server.
        clients: new clients, in any order.
        values: the values of each client, in the order of the clients.
    """
    at = {server.manifest.parties.index(client.public): place for place, client in enumerate(clients)}
    sent, got = [0] * len(clients), [0] * len(clients)

    def hand_over(sender: int, place: int, frames: Iterable[bytes | bytearray]) -> None:
        for frame in frames:
            sent[place] += len(frame)
            server.receive(frame, sender)

    frames: Frames = server.invite()
    while frames:
        for index, frame in frames:
            if index not in at:
                continue
            place = at[index]
            got[place] += len(frame)
            hand_over(index, place, clients[place].receive(frame))
            if clients[place].wants_values:
                hand_over(index, place, clients[place].upload(values[place]))
        frames = server.close()
    return Outcome(server.result, server.aborted, server.survivors, server.left, max(sent), max(got))
