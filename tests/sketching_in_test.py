"""Training in closed form over made-up clients, cut into any nodes and chunks, and a dense twin of the sketch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import fedrec as fr
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.identifiers import Identifiers
from fedrec.data.keys import KeyedSource, client_keys
from fedrec.evaluation.metrics import parse_metrics
from fedrec.evaluation.protocols import parse_protocol
from fedrec.evaluation.ranks import user_metrics
from fedrec.models.base import Given

SOURCE = KeyedSource.from_seed(0)


def clients_of(matrix):
    """Clients [c] from a 0/1 matrix [c, items]."""
    matrix = np.asarray(matrix)
    users, items = np.nonzero(matrix)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=len(matrix)))]).astype(np.int64)
    none = np.zeros(len(matrix) + 1, dtype=np.int64)
    keys = np.arange(len(matrix), dtype=np.uint64)
    return Clients(indptr, items.astype(np.int32), None, None, keys, matrix.shape[1], none, np.empty(0, np.int32))


def long_tail(users, items, seed=0):
    """A 0/1 matrix with popular and rare items; nobody has the last two."""
    rng = np.random.default_rng(seed)
    taste = rng.random((users, 3)) @ rng.random((3, items))
    matrix = (rng.random((users, items)) < taste * 1.2 / np.arange(1, items + 1) ** 0.6).astype(np.int64)
    matrix[:, -2:] = 0
    matrix[matrix.sum(axis=1) == 0, 0] = 1
    return matrix


def one_round(model, state, clients, round, parts=None, chunk=None):
    """The sum of a round; `parts` are nodes, and each adds its clients `chunk` at a time."""
    spec = model.spec(state.shared, round).fit(1 << max(13, len(clients).bit_length()))
    total = Sum.zeros(spec, round)
    for positions in parts or [np.arange(len(clients))]:
        node = Sum.zeros(spec, round)
        for start in range(0, len(positions), chunk or len(positions)):
            some = clients.take(np.asarray(positions[start : start + (chunk or len(positions))], dtype=np.int64))
            node.add(model.contribute(Given(round, state.shared, {}, SOURCE), some, None)[0])
        total.merge(node)
    return total


def train(model, clients, parts=None, chunk=None, watch=lambda round, state, total: None):
    """The final state; `watch` sees every round's state and sum before the step."""
    state = model.start(Catalog(Identifiers.of(list(range(clients.n_items)))), {}, SOURCE)
    round = 0
    while model.spec(state.shared, round) is not None:
        total = one_round(model, state, clients, round, parts, chunk)
        watch(round, state, total)
        state = model.step(state, total, round)
        round += 1
    return state


def dense_basis(gram_omega, omega):
    """Q and Λ of the Nyström approximation by dense QR-free float64 algebra: Cholesky, then a thin SVD."""
    shift = 1e-6 * np.linalg.norm(gram_omega)
    shifted = gram_omega + shift * omega
    core = omega.T @ shifted
    factor = np.linalg.cholesky((core + core.T) / 2)
    basis, singular, _ = np.linalg.svd(np.linalg.solve(factor, shifted.T).T, full_matrices=False)
    return basis, np.maximum(singular**2 - shift, 0.0)


def dense_ridge(basis, values, reg):
    """B = −P / diag(P) with a zero diagonal, P = (Q Λ Qᵀ + λI)⁻¹ as items × items."""
    inverse = np.eye(len(basis)) / reg - (basis * (values / (reg * (values + reg)))) @ basis.T
    weights = -inverse / np.diag(inverse)
    weights[np.diag_indices(len(weights))] = 0.0
    return weights


def measured(model, split, metrics, protocol):
    """Mean test metrics after training on the split's train part."""
    keys = client_keys(SOURCE, split.data.users)
    state = train(model, Clients.of(split.train.without_values(), keys), chunk=2048)
    everyone = Clients.of(split.history("test").without_values(), keys)
    users = np.flatnonzero(split.test.lengths > 0)
    parsed, values = parse_metrics(metrics), []
    for start in range(0, len(users), 1024):
        chosen = users[start : start + 1024]
        clients = everyone.take(chosen)
        wanted, touched = split.test.take_users(chosen), split.data.take_users(chosen)
        result = user_metrics(
            model.score(Given.to_score(state.shared, {}), clients, None),
            (clients.indptr, clients.items),
            (wanted.indptr, wanted.items),
            (touched.indptr, touched.items),
            parsed,
            parse_protocol(protocol),
        )
        values.append(result.values)
    return np.concatenate(values).mean(axis=0)


def last_out(folder: Path):
    """A real data set, each user's last interaction held out."""
    return fr.leave_last_out(fr.load_data(str(folder)))
