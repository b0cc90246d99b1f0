"""Solver `cg` of iALS: conjugate gradients, whose sums are d numbers an item, not the d (d + 3) / 2 of its equations
(Hestenes and Stiefel 1952; on users' and items' least squares: Takács, Pilászy and Tikk 2011).

A sweep takes `SWEEP` rounds. In its first one each client takes three steps from its former factor towards the least of
its own loss, and adds w (1 − ⟨u, y⟩) u to the row of each of its items; sums are the residuals of items' equations. The
coordinator chooses a direction p for each item, in each further round clients add w ⟨u, p⟩ u, and the sum says how far
to go along p, and what the next direction is. So items take two steps a sweep, each as long as it should be: the
numbers ⟨r, p⟩ and ⟨p, A p⟩ follow from sums. Σ u uᵀ of everyone is summed in the first round.

Both sides precondition by what all share. An item's own Σ u uᵀ is about its share of everyone's, so that a frame in
which everyone's is diagonal makes its equations nearly so; for a user likewise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from fedrec.aggregation.contributions import Contribution, Dense, RankOne
from fedrec.aggregation.dense_products import DenseProducts
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients
from fedrec.errors import DamagedError
from fedrec.kernels.conjugate_gradients import entry_errors, step_users, turn_rows
from fedrec.kernels.lanes import LANES
from fedrec.models.base import Arrays, Private
from fedrec.models.linear.counts import count_spec
from fedrec.models.shapes import Named, Shape

__all__ = [
    "SWEEP",
    "Pulls",
    "Sweep",
    "error_sums",
    "everyone_sums",
    "fitted_users",
    "item_sums",
    "largest_sum",
    "server_shapes",
    "shared_of",
    "shared_shapes",
    "sweep_spec",
]

ITEM_STEPS = 2
USER_STEPS = 3
SWEEP = 1 + ITEM_STEPS
"""Rounds of a sweep: one for residuals, and one for each step of the items."""


@dataclass(frozen=True)
class Pulls:
    """What pulls a factor towards 0: weight α₀ of all pairs, and λ (n + α₀ · others)^ν.

    Args:
        unobserved_weight, reg, nu: α₀, λ and ν, as the hyperparameters of `ials`.
    """

    unobserved_weight: float
    reg: float
    nu: float

    def of(self, counts: np.ndarray, others: float) -> np.ndarray:
        """λ (n + α₀ · others)^ν for n in `counts`."""
        return self.reg * (counts + self.unobserved_weight * others) ** self.nu


def shared_shapes(d: int) -> Named:
    """The shared arrays of `shared_of`, and the direction of each item, of which there are none between sweeps."""
    return {"basis": Shape((d, d)), "spectrum": Shape((d,)), "direction": Shape(("items in a sweep", d))}


def server_shapes(n_items: int, d: int) -> Named:
    """The server arrays that there are between the rounds of a sweep only."""
    table, numbers, square = (Shape(axes, "float64") for axes in ((n_items, d), (n_items,), (d, d)))
    of_items = {"residual": table, "change": table, "counts": numbers, "pull": numbers, "share": numbers}
    return {**of_items, "everyone": square, "vectors": square, "values": Shape((d,), "float64")}


def shared_of(gram: np.ndarray) -> dict[str, np.ndarray]:
    """Between sweeps: eigenvectors of YᵀY, columns of `basis` [d, d], its eigenvalues, `spectrum` [d], no direction."""
    values, vectors = np.linalg.eigh(gram)
    spectrum = np.maximum(values, 0.0).astype(np.float32)
    none = np.empty((0, len(gram)), dtype=np.float32)
    return {"basis": vectors.astype(np.float32), "spectrum": spectrum, "direction": none}


def fitted_users(
    shared: Arrays, clients: Clients, private: Private, pulls: Pulls, longest: float
) -> tuple[np.ndarray, Private | None]:
    """Factors of clients [clients, d] float32, fitted to the present items, and private arrays if that renewed any.

    A client takes three steps from its former factor the first time that it meets item factors, wherever in the sweep
    that is; `fitted` has the trace of YᵀY to know them by.

    Args:
        shared: `items` Y, their `gram`, `basis` and `spectrum`.
        clients: their histories.
        private: `users` and `fitted`.
        pulls: see `Pulls`.
        longest: length that the factors of least loss do not exceed, and no factor will.
    """
    users, fitted = private["users"], float(np.trace(shared["gram"]))
    stale = np.flatnonzero(private["fitted"][:, 0] != fitted)
    if not len(stale):
        return users, None
    users, some = users.copy(), clients if len(stale) == len(clients) else clients.take(stale)
    users[stale] = _stepped(shared, some, users[stale], pulls, longest)
    return users, {"users": users, "fitted": np.full((len(clients), 1), fitted)}


def _stepped(shared: Arrays, clients: Clients, users: np.ndarray, pulls: Pulls, longest: float) -> np.ndarray:
    basis, d = shared["basis"], users.shape[1]
    table, turned = _turned(shared["items"], basis), _turned(users, basis)
    spectrum = np.zeros(table.shape[1], dtype=np.float32)
    spectrum[:d] = shared["spectrum"]
    weight, offset = pulls.unobserved_weight, pulls.unobserved_weight * clients.n_items
    settings = weight, offset, pulls.reg, pulls.nu, longest, USER_STEPS
    step_users(clients.indptr, clients.items, clients.weights, table, spectrum, *settings, turned)
    out = np.empty_like(users)
    turn_rows(np.ascontiguousarray(turned[:, :d]), np.ascontiguousarray(basis.T), out)
    return out


def item_sums(shared: Arrays, clients: Clients, users: np.ndarray, place: int) -> RankOne:
    """What clients add to the rows of their items.

    Args:
        shared: `items`, or `direction` after the first round of a sweep.
        clients: their histories.
        users: factors [clients, d] float32.
        place: of the round in its sweep.

    Raises:
        DamagedError: if there is no direction for each item where one is needed.
    """
    if place > 0:
        return error_sums(shared["direction"], clients, users, aim=0.0, sign=1.0)
    sums = error_sums(shared["items"], clients, users)
    assert sums.values is not None
    return replace(sums, values=sums.values / _lengths(shared["items"])[clients.items])


def error_sums(table: np.ndarray, clients: Clients, users: np.ndarray, aim: float = 1.0, sign: float = -1.0) -> RankOne:
    """w (aim + sign · ⟨u, y⟩) u for each client's items.

    Args:
        table: rows y [items, d] float32.
        clients: their histories.
        users: factors u [clients, d] float32.
        aim, sign: see above.

    Raises:
        DamagedError: if there is no row for each item.
    """
    if len(table) != clients.n_items:
        raise DamagedError(f"shared array 'direction' has {len(table)} rows; it should have {clients.n_items}")
    errors = np.empty(len(clients.items), dtype=np.float32)
    padded = _padded(table), _padded(users)
    weights = clients.weights
    entry_errors(clients.indptr, clients.items, weights, *padded, np.float32(aim), np.float32(sign), errors)
    right = users.astype(np.float64)
    return RankOne(clients.indptr, clients.items, np.ones(len(clients)), clients.n_items, right, errors)


def sweep_spec(errors: ArraySpec, bound: float, heaviest: float | None, round: int) -> SumSpec:
    """What a round sums: errors of items, and counts; in the first of a sweep weights of items, where interactions have
    weights up to `heaviest`, Σ u uᵀ of all clients, where no |u_k u_l| exceeds the bound, and how many there are."""
    n_items, d = errors.shape
    arrays = (errors, count_spec(n_items))
    if round % SWEEP > 0:
        return SumSpec(arrays)
    masses = () if heaviest is None else (replace(count_spec(n_items, heaviest), name="masses"),)
    bits = 2 * _factor_bits(bound, errors.scale_bits)
    everyone = ArraySpec("everyone", "dense", (d, d), bound=bound, scale_bits=bits)
    clients = ArraySpec("clients", "dense", (1,), bound=1.0, role="count")
    return SumSpec((*arrays, *masses, everyone, clients))


def everyone_sums(users: np.ndarray, bound: float, scale_bits: int) -> dict[str, Contribution]:
    """u uᵀ and 1 of each client, for factors [clients, d] float32, and bound and bits as in `sweep_spec`."""
    ones, owners = np.ones(len(users)), np.arange(len(users))
    products = DenseProducts(owners, users, users, ones, _factor_bits(bound, scale_bits), math.sqrt(bound))
    return {"everyone": products, "clients": Dense(np.ones((len(users), 1), dtype=np.float32), ones)}


def _factor_bits(bound: float, scale_bits: int) -> int:
    """Bits of the grid of factors, in their products: those of 16 where products have 22, if floats hold these."""
    return max(1, min(scale_bits // 2 + 5, math.floor(25.9 - math.log2(bound) / 2)))


def largest_sum(longest: float, round: int) -> float:
    """What no coordinate of one client's sum exceeds, at weight 1, with a little to spare for rounding.

    Args:
        longest: length of a user's factor at most.
        round: number of the round.
    """
    return 1.001 * (longest**2 + (longest if round % SWEEP == 0 else 0.0))


@dataclass(frozen=True, eq=False)
class Sweep:
    """The items' side of a sweep between its rounds.

    Args:
        residual: r [items, d] of each item's equations, for the present change.
        change: [items, d] by which factors will move when the sweep ends.
        direction: p [items, d] float32, of length 1 at most.
        counts: [items] clients of the first round that have each item.
        pull: [items], see `Pulls.of`.
        share: [items], by what Σ u uᵀ of everyone is multiplied in the preconditioner.
        everyone: Σ u uᵀ [d, d] of all clients.
        values, vectors: its eigenvalues [d], and its eigenvectors, columns [d, d].
    """

    residual: np.ndarray
    change: np.ndarray
    direction: np.ndarray
    counts: np.ndarray
    pull: np.ndarray
    share: np.ndarray
    everyone: np.ndarray
    values: np.ndarray
    vectors: np.ndarray

    @classmethod
    def begun(cls, items: np.ndarray, total: Sum, pulls: Pulls, first: bool) -> Sweep:
        """After the first round of a sweep.

        Args:
            items: factors [items, d] float32.
            total: of that round.
            pulls: see `Pulls`.
            first: whether it is the first sweep: then items that no client has go to 0.
        """
        table = items.astype(np.float64)
        gram, clients = total.value("everyone"), float(total.value("clients")[0])
        counts = np.ascontiguousarray(total.value("counts")[:, 0])
        masses = total.value("masses")[:, 0] if "masses" in total.spec.names else counts
        pull, share = pulls.of(counts, clients), pulls.unobserved_weight + masses / max(clients, 1.0)
        change = np.zeros_like(table)
        if first:
            change[counts <= 0.0] = -table[counts <= 0.0]
        errors = total.value("errors") * _lengths(items)[:, None]
        residual = errors - pulls.unobserved_weight * (table @ gram) - pull[:, None] * table
        residual[counts <= 0.0] = 0.0
        begun = cls(residual, change, np.zeros_like(items), counts, pull, share, gram, *np.linalg.eigh(gram))
        return begun.turned(begun.conditioned())

    @classmethod
    def after(cls, shared: Arrays, server: Arrays, total: Sum, pulls: Pulls, round: int) -> Sweep:
        """After a round, from the arrays of the state before it and the round's total."""
        place = round % SWEEP
        if place == 0:
            return cls.begun(shared["items"], total, pulls, first=round == 0)
        return cls.of(shared, server).stepped(total, pulls.unobserved_weight, last=place == SWEEP - 1)

    @classmethod
    def of(cls, shared: Arrays, server: Arrays) -> Sweep:
        """From the arrays of a state."""
        return cls(*(({**server, **shared})[name] for name in cls.__dataclass_fields__))

    def arrays(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Shared and server arrays of a state."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {"direction": fields.pop("direction")}, fields

    def stepped(self, total: Sum, weight: float, last: bool) -> Sweep:
        """After a further round: one step along the direction, and the next direction unless it was the `last`.

        Sums of another cohort than that of the first round, where nodes were missing, stand for it by their mean.
        """
        direction, now = self.direction.astype(np.float64), total.value("counts")[:, 0]
        there = (now > 0.0) & (self.counts > 0.0)
        scale = np.where(there, self.counts / np.maximum(now, 1.0), 0.0)[:, None]
        product = scale * total.value("errors") + weight * (direction @ self.everyone) + self.pull[:, None] * direction
        curvature = np.einsum("id,id->i", direction, product)
        gain = np.einsum("id,id->i", direction, self.residual)
        there &= curvature > 0.0
        curvature[~there] = 1.0
        length = np.where(there, gain / curvature, 0.0)[:, None]
        moved = replace(self, residual=self.residual - length * product, change=self.change + length * direction)
        if last:
            return moved
        conditioned = moved.conditioned()
        back = np.einsum("id,id->i", conditioned, product) / curvature
        return moved.turned(conditioned - np.where(there, back, 0.0)[:, None] * direction)

    def conditioned(self) -> np.ndarray:
        """(share · Σ u uᵀ of everyone + pull · I)⁻¹ residual [items, d]; 0 for items that no client has."""
        curvatures = self.share[:, None] * np.maximum(self.values, 0.0) + self.pull[:, None]
        curvatures[self.counts <= 0.0] = 1.0
        return (self.residual @ self.vectors / curvatures) @ self.vectors.T

    def turned(self, direction: np.ndarray) -> Sweep:
        """With another direction, at length 1."""
        lengths = np.sqrt(np.einsum("id,id->i", direction, direction))[:, None]
        unit = np.divide(direction, lengths, out=np.zeros_like(direction), where=lengths > 0.0)
        return replace(self, direction=unit.astype(np.float32))


def _lengths(items: np.ndarray) -> np.ndarray:
    """The least powers of two that are at least 1 and the factors' lengths [items] float32: errors divided by them are
    bounded whatever the factors are."""
    norms = np.sqrt(np.einsum("id,id->i", items, items, dtype=np.float64))
    return np.exp2(np.ceil(np.log2(np.maximum(norms, 1.0)))).astype(np.float32)


def _turned(rows: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """rows · basis [n, width] float32, with columns of 0 up to a multiple of sixteen."""
    out = np.empty((len(rows), -(-rows.shape[1] // LANES) * LANES), dtype=np.float32)
    turn_rows(rows, basis, out)
    return out


def _padded(rows: np.ndarray) -> np.ndarray:
    """The rows [n, width] float32, with columns of 0 up to a multiple of sixteen."""
    return np.ascontiguousarray(np.pad(rows, ((0, 0), (0, -rows.shape[1] % LANES))))
