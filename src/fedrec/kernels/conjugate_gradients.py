"""Steps of preconditioned conjugate gradients on users' least squares, many users at once, in an order of their own.

Tables are float32 with rows of a multiple of sixteen columns. Work goes in the frame in which Σ y yᵀ over all items is
diagonal: there the part of a user's matrix that all items share costs one product a column.
"""

from __future__ import annotations

import numba
import numpy as np

from fedrec.kernels.lanes import lane_dot
from fedrec.kernels.threads import parallel_kernel

__all__ = ["entry_errors", "step_users", "turn_rows"]

_CSR = "int64[::1], int32[::1], float32[::1]"
_TABLE = "float32[:, ::1]"


@parallel_kernel(f"void({_TABLE}, {_TABLE}, {_TABLE})", over=lambda rows, matrix, out: len(rows))
def turn_rows(begin, end, rows, matrix, out):  # type: ignore[no-untyped-def]
    """out[r, :d] = rows[r] · matrix for a matrix [d, d], and 0 in the columns after these."""
    d = matrix.shape[0]
    for row in range(begin, end):
        source, target = rows[row], out[row]
        target[:] = 0.0
        whole = d - d % 4
        for k in range(0, whole, 4):
            one, two, three, four = matrix[k], matrix[k + 1], matrix[k + 2], matrix[k + 3]
            for j in range(d):
                first = (target[j] + source[k] * one[j]) + source[k + 1] * two[j]
                target[j] = (first + source[k + 2] * three[j]) + source[k + 3] * four[j]
        for k in range(whole, d):
            for j in range(d):
                target[j] += source[k] * matrix[k, j]


@numba.njit(nogil=True, error_model="numpy")
def _add_errors(out, place, table, items, weights, start, stop, users, user, aim):  # type: ignore[no-untyped-def]
    """out[place] += Σ w (aim − ⟨y, users[user]⟩) y over the rows y of `table` at items from `start` to `stop`."""
    width = table.shape[1]
    total = out[place]
    whole = stop - (stop - start) % 4
    for entry in range(start, whole, 4):
        first, second = np.int64(items[entry]), np.int64(items[entry + 1])
        third, fourth = np.int64(items[entry + 2]), np.int64(items[entry + 3])
        a = aim - lane_dot(users, user, table, first, width)
        b = aim - lane_dot(users, user, table, second, width)
        c = aim - lane_dot(users, user, table, third, width)
        d = aim - lane_dot(users, user, table, fourth, width)
        if len(weights):
            a *= weights[entry]
            b *= weights[entry + 1]
            c *= weights[entry + 2]
            d *= weights[entry + 3]
        one, two, three, four = table[first], table[second], table[third], table[fourth]
        for k in range(width):
            total[k] = (((total[k] + a * one[k]) + b * two[k]) + c * three[k]) + d * four[k]
    for entry in range(whole, stop):
        last = np.int64(items[entry])
        a = aim - lane_dot(users, user, table, last, width)
        if len(weights):
            a *= weights[entry]
        one = table[last]
        for k in range(width):
            total[k] += a * one[k]


@parallel_kernel(
    f"void({_CSR}, {_TABLE}, float32[::1], float64, float64, float64, float64, float64, int64, {_TABLE})",
    over=lambda indptr, *_: indptr,
)
def step_users(  # type: ignore[no-untyped-def]
    begin, end, indptr, items, weights, table, spectrum, alpha, offset, reg, nu, longest, steps, users
):
    """Take `steps` steps from users[c] [width] towards (alpha · S + Σ w y yᵀ + pull · I)⁻¹ Σ w y.

    S is the diagonal matrix of `spectrum` [width], which is Σ y yᵀ over all rows y of `table`; the sums are over the
    rows at c's n items, and pull = reg · (n + offset)^nu. Weights w are all 1 where `weights` is empty. The
    preconditioner takes Σ w y yᵀ for its share of S. A user that ends up longer than `longest` is brought to that
    length; a client without items gets zeros.
    """
    width = table.shape[1]
    work = np.zeros((3, width), dtype=np.float32)
    residual, direction, product = work[0], work[1], work[2]
    diagonal, inverse = np.zeros(width, dtype=np.float32), np.zeros(width, dtype=np.float32)
    one, none = np.float32(1.0), np.float32(0.0)
    for client in range(begin, end):
        start, stop = indptr[client], indptr[client + 1]
        user = users[client]
        if stop == start:
            user[:] = 0.0
            continue
        mass = np.float64(stop - start)
        pull = np.float32(reg * (mass + offset) ** nu)
        if len(weights):
            mass = 0.0
            for entry in range(start, stop):
                mass += np.float64(weights[entry])
        share = np.float32(alpha + mass / len(table))
        for k in range(width):
            diagonal[k] = np.float32(alpha) * spectrum[k] + pull
            inverse[k] = one / (share * spectrum[k] + pull)
            residual[k] = -diagonal[k] * user[k]
        _add_errors(work, 0, table, items, weights, start, stop, users, client, one)
        for k in range(width):
            direction[k] = inverse[k] * residual[k]
        energy = lane_dot(work, 0, work, 1, width)
        for step in range(steps):
            for k in range(width):
                product[k] = -diagonal[k] * direction[k]
            _add_errors(work, 2, table, items, weights, start, stop, work, 1, none)  # minus the matrix · direction
            curvature = -lane_dot(work, 1, work, 2, width)
            if not (curvature > 0.0 and energy > 0.0):
                break
            length = energy / curvature
            for k in range(width):
                user[k] += length * direction[k]
                residual[k] += length * product[k]
            if step + 1 < steps:
                for k in range(width):
                    product[k] = inverse[k] * residual[k]
                before = energy
                energy = lane_dot(work, 0, work, 2, width)
                for k in range(width):
                    direction[k] = product[k] + energy / before * direction[k]
        norm = np.sqrt(lane_dot(users, client, users, client, width))
        if norm > longest:
            for k in range(width):
                user[k] *= np.float32(longest) / norm


@parallel_kernel(
    f"void({_CSR}, {_TABLE}, {_TABLE}, float32, float32, float32[::1])",
    over=lambda indptr, *_: indptr,
)
def entry_errors(begin, end, indptr, items, weights, table, users, aim, sign, out):  # type: ignore[no-untyped-def]
    """out[e] = w (aim + sign · ⟨u, y⟩) for the row y of `table` at entry e of the client with factor u."""
    width = table.shape[1]
    for client in range(begin, end):
        for entry in range(indptr[client], indptr[client + 1]):
            error = aim + sign * lane_dot(users, client, table, np.int64(items[entry]), width)
            if len(weights):
                error *= weights[entry]
            out[entry] = error
