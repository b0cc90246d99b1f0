"""The fixed-point sum: the only thing that leaves a node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.specs import SumSpec
from fedrec.errors import DamagedError

__all__ = ["Sum"]


@dataclass(eq=False)
class Sum:
    """Integer sums over clients in the rings of a `SumSpec`. Adding is exact, so order and grouping do not matter.

    Args:
        spec: what is summed; rings must be chosen (`SumSpec.fit`).
        round: the round it belongs to.
        arrays: the numbers, signed, in 32 or 64 bits; one array per array of the spec.
        clients: clients summed.
        left_out: clients left out because something they contributed was not finite.
        saturated: coordinates that were cut to their bound.
        idle: of the clients summed, those that added nothing but zeros, as a model drew others; known at the node only.
        noise: of a sum released under privacy, the deviation of each array's noise in its weighted space (see
            `fedrec.aggregation.queries`); its other counts are then public ones.
        commitments: of the nodes that keep receipts of their parts (see `fedrec.record.receipts`); they travel beside
            the frame.
        masked_bytes: what the node that sent most let out of a secure aggregation; `None` of a plain one.
        transcript: digest of all that the nodes of a secure aggregation across machines were asked; empty of any other.

    Example:
        >>> import numpy as np
        >>> from fedrec.aggregation.contributions import Contributions, Dense
        >>> from fedrec.aggregation.specs import ArraySpec
        >>> spec = SumSpec((ArraySpec("x", "dense", (2,), bound=1.0, scale_bits=8),)).fit(n_max=10)
        >>> total = Sum.zeros(spec)
        >>> values = np.array([[0.5, 2.0], [0.25, np.nan]], dtype=np.float32)
        >>> _ = total.add(Contributions({"x": Dense(values, np.ones(2))}))
        >>> total.value("x").tolist(), total.clients, total.left_out, total.saturated
        ([0.5, 1.0], 1, 1, 1)
    """

    spec: SumSpec
    round: int = 0
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    clients: int = 0
    left_out: int = 0
    saturated: int = 0
    idle: int = 0
    noise: Mapping[str, float] = field(default_factory=dict)
    commitments: tuple[str, ...] = ()
    masked_bytes: int | None = None
    transcript: str = ""

    @classmethod
    def zeros(cls, spec: SumSpec, round: int = 0) -> Sum:
        """The sum over nobody."""
        return cls(spec, round, {array.name: np.zeros(array.shape, f"i{array.word // 8}") for array in spec.arrays})

    def add(self, contributions: Contributions, sound: np.ndarray | None = None) -> np.ndarray:
        """Add a chunk of clients; those that are not finite throughout are left out and counted.

        Args:
            contributions: of the clients.
            sound: which clients ended the round with finite private arrays [clients] bool; others are left out, too.

        Returns:
            Which clients were summed [clients] bool.
        """
        if set(contributions.arrays) != set(self.spec.names):
            raise ValueError(
                f"contributions have the arrays {sorted(contributions.arrays)}, the spec has {self.spec.names}"
            )
        sizes = {array.n_clients for array in contributions.arrays.values()}
        if len(sizes) > 1:
            raise ValueError(f"arrays of contributions have different numbers of clients: {sorted(sizes)}")
        keep = contributions.finite() if sound is None else contributions.finite() & sound
        for array in self.spec.arrays:
            self.saturated += contributions.arrays[array.name].add_to(self.arrays[array.name], array, keep)
        self.clients += int(keep.sum())
        if contributions.adding is not None:
            self.idle += int((keep & ~contributions.adding).sum())
        self.left_out += int(len(keep) - keep.sum())
        return keep

    def merge(self, other: Sum) -> None:
        """Add another sum of the same spec and round.

        Raises:
            DamagedError: if spec or round differ, or if more than `n_max` clients would be in the sum.
        """
        if other.spec.digest != self.spec.digest or other.round != self.round:
            raise DamagedError(
                f"a sum of round {other.round} with a different spec cannot be added to a sum of round {self.round}"
            )
        if self.clients + other.clients > self.spec.n_max:
            raise DamagedError(
                f"the sum has {self.clients + other.clients} clients, more than n_max = {self.spec.n_max}"
            )
        for name, array in self.arrays.items():
            array += other.arrays[name]
        self.clients += other.clients
        self.left_out += other.left_out
        self.saturated += other.saturated
        self.idle += other.idle

    def integers(self, name: str) -> np.ndarray:
        """The summed integers of an array, as they are."""
        return self.arrays[name]

    def value(self, name: str) -> np.ndarray:
        """The sum of an array in float64."""
        return self.arrays[name] / self.spec[name].unit
