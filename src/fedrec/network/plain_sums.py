"""Unmasked sums of single nodes, read from replies."""

from __future__ import annotations

from collections.abc import Callable

from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.aggregation.wire import decode_sum
from fedrec.errors import DamagedError
from fedrec.federation.messages import Reply
from fedrec.federation.read_sums import ReadSums
from fedrec.network.ready import commitments_in
from fedrec.network.retrying import AbandonedError

__all__ = ["PlainSums"]


class PlainSums:
    """Reads unmasked sums from replies, and counts them.

    Args:
        tell: receives warnings about invalid sums.
        read: counts every sum that the coordinator could read.
    """

    def __init__(self, tell: Callable[[str], None], read: ReadSums) -> None:
        self._tell, self._read = tell, read

    def run(self, replies: dict[str, Reply], spec: SumSpec, round: int) -> tuple[list[Sum], list[str]]:
        """The valid sums in replies, which are released one by one, and the names of their nodes.

        Raises:
            AbandonedError: if the sums claim more clients than `n_max`.
        """
        sums, names = [], []
        for name in list(replies):
            try:
                sums.append(self.decoded(replies.pop(name), spec, round))
            except DamagedError as error:
                self._tell(f"{name} is left out of round {round}, as it sent no valid sum: {error}")
                continue
            names.append(name)
        if sum(part.clients for part in sums) > spec.n_max:
            claims = ", ".join(f"{name} {part.clients}" for name, part in zip(names, sums, strict=True))
            raise AbandonedError(f"the nodes claim more clients than n_max = {spec.n_max}: {claims}")
        return sums, names

    def decoded(self, reply: Reply, spec: SumSpec, round: int) -> Sum:
        """A node's sum from its reply; also an unusable sum counts as read.

        Raises:
            DamagedError: if the reply has no sum, a sum of another round, or a malformed commitment.
        """
        self._read.single()
        total = decode_sum(reply.parts[0] if reply.parts else b"", spec)
        if total.round != round:
            raise DamagedError(f"the sum is of round {total.round}")
        total.commitments = commitments_in(reply)
        return total
