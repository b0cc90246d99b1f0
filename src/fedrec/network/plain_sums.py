"""Sums of single nodes in the clear, as they are read from replies."""

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
    """Reads sums, and counts those that it read.

    Args:
        tell: told in words what is no sum.
        read: counts every sum that was readable.
    """

    def __init__(self, tell: Callable[[str], None], read: ReadSums) -> None:
        self._tell, self._read = tell, read

    def run(self, replies: dict[str, Reply], spec: SumSpec, round: int) -> tuple[list[Sum], list[str]]:
        """The sums in replies, which are let go one by one, and whose they are; who sent something else is not in it.

        Raises:
            AbandonedError: if they claim more clients than the federation has.
        """
        sums, names = [], []
        for name in list(replies):
            try:
                sums.append(self.decoded(replies.pop(name), spec, round))
            except DamagedError as error:
                self._tell(f"{name} answered round {round} with something else than its sum: {error}")
                continue
            names.append(name)
        if sum(part.clients for part in sums) > spec.n_max:
            claims = ", ".join(f"{name} {part.clients}" for name, part in zip(names, sums, strict=True))
            raise AbandonedError(f"not all of these are true, as n_max is {spec.n_max}: clients of {claims}")
        return sums, names

    def decoded(self, reply: Reply, spec: SumSpec, round: int) -> Sum:
        """A node's sum from its reply, which is counted as read even if it is of no use.

        Raises:
            DamagedError: if it is not a sum, is of another round, or the commitment beside it is malformed.
        """
        self._read.single()
        total = decode_sum(reply.parts[0] if reply.parts else b"", spec)
        if total.round != round:
            raise DamagedError(f"a sum of round {total.round}")
        total.commitments = commitments_in(reply)
        return total
