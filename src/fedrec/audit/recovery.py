"""Recovery of interactions from a release: co-occurrences from a model, a user from two sums, and the user behind a
count of one."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import beta

from fedrec.aggregation.sums import Sum
from fedrec.audit.findings import Finding
from fedrec.audit.observe import Observed, observe
from fedrec.audit.updates import row_sign
from fedrec.models.linear.gram import gram_matrix, unpack_triangle
from fedrec.privacy.chance import SYSTEM, Chance

__all__ = ["co_occurrences", "counts_from_ease", "differencing", "singletons"]

_CONFIDENCE = 0.95
_SLACK = 0.05


def counts_from_ease(weights: np.ndarray, reg: float | None) -> np.ndarray:
    """Every co-occurrence count [items, items] from published EASE weights, by algebra.

    B = I − P / diag(P) with P = (G + λI)⁻¹ symmetric. So P = (I − B) diag(p), its symmetry gives p up to a factor, and
    the factor follows from λ: where λ = 6 · trace(G) / items (`reg: auto`, given as `None`), from its own definition;
    where it is known, from the smallest off-diagonal entry being a whole number.
    """
    inverse_part = np.eye(len(weights)) - weights.astype(np.float64)
    ratio = _symmetrising(inverse_part)
    product = np.linalg.inv(inverse_part) / ratio[:, None]
    product = (product + product.T) / 2
    off = np.abs(product[~np.eye(len(product), dtype=bool)])
    unit = off[off > 1e-4 * off.max()].min()  # a count of 1, up to the factor
    gram: np.ndarray = product / unit
    diagonal = np.diag(gram).copy()
    shift = diagonal.sum() / len(gram) * 6.0 / 7.0 if reg is None else reg
    gram[np.diag_indices(len(gram))] = diagonal - shift
    return gram


def _symmetrising(matrix: np.ndarray) -> np.ndarray:
    """p with matrix · diag(p) symmetric, p[most connected] = 1, from its row and column there."""
    strength = np.abs(matrix).sum(axis=0) + np.abs(matrix).sum(axis=1)
    scale = np.full(len(matrix), np.nan)
    start = int(np.argmax(strength))
    scale[start] = 1.0
    reached = [start]
    # Ratios p_i = p_j · M_ij⁻¹ M_ji along the strongest link to the items reached so far.
    link = np.minimum(np.abs(matrix), np.abs(matrix.T))
    best = link[start].copy()
    via = np.full(len(matrix), start)
    while len(reached) < len(matrix):
        best[reached] = -1.0
        item = int(np.argmax(best))
        near = via[item]
        if best[item] <= 0.0:
            scale[item] = 1.0
        else:
            scale[item] = scale[near] * matrix[item, near] / matrix[near, item]
        reached.append(item)
        better = link[item] > best
        via[better] = item
        best = np.maximum(best, link[item])
    return scale


def co_occurrences(observed: Observed) -> Finding:
    """The share of co-occurrence counts that is recovered exactly from the released model."""
    clients = observed.engine.shards[0].clients
    dense = np.zeros((len(clients), clients.n_items), dtype=np.float32)
    dense[np.repeat(np.arange(len(clients)), clients.lengths), clients.items] = 1.0
    truth = dense.T @ dense
    upper = np.triu_indices(len(truth), 1)
    pairs = truth[upper] > 0
    if "weights" in observed.shared:
        reg = observed.plan.model["reg"]
        guess = counts_from_ease(observed.shared["weights"], None if reg == "auto" else float(reg))
    else:
        guess = _from_noise(observed)
    exact = float((np.rint(guess[upper][pairs]) == truth[upper][pairs]).mean())
    likeliest = float(np.bincount(truth[upper][pairs].astype(np.int64)).max() / pairs.sum())
    limit = likeliest + _SLACK if observed.private else None
    works = exact > likeliest + _SLACK
    return Finding(
        "co-occurrences",
        "release",
        "share of co-occurring pairs whose count is recovered exactly",
        exact,
        limit,
        "fail" if works else "pass",
        f"{exact:.1%} of {int(pairs.sum()):,} counts are recovered exactly from the released model; guessing the most "
        f"frequent count finds {likeliest:.1%}",
    )


def _from_noise(observed: Observed) -> np.ndarray:
    """The best guess from a noisy, user-normalised Gram matrix: scaled to the mean history."""
    typical = observed.engine.shards[0].clients.lengths.mean()
    return np.maximum(gram_matrix(observed.rounds[0].released, observed.data.n_items) * typical, 1.0)


def differencing(observed: Observed, digest: str, chance: Chance = SYSTEM, users: int = 5) -> Finding:
    """Subtract the sums of two runs that differ by one user."""
    shard, hits = observed.engine.shards[0], []
    rng = np.random.Generator(np.random.Philox(7))
    victims = rng.choice(shard.active, min(users, len(shard.active)), replace=False)
    for victim in victims:
        rest = observed.data.take_users(np.delete(np.arange(observed.data.n_users), victim))
        without = observe(
            observed.plan.model_copy(update={"data": _any_data(observed)}), rest, digest, chance, rounds=1
        )
        truth = shard.clients.take(np.array([victim])).items
        hits.append(_f1(_missing_user(observed.rounds[0].released, without.rounds[0].released, len(truth)), truth))
    score, base = float(np.mean(hits)), _guessing(observed)
    limit = base + _SLACK if observed.private else None
    return Finding(
        "differencing",
        "cohort",
        "F1 of a user's items from two sums that differ by that user",
        score,
        limit,
        "fail" if score > base + _SLACK else "pass",
        f"subtracting the first sums of two runs finds a user's items with F1 {score:.3f}; guessing the most popular "
        f"items finds {base:.3f}",
    )


def _any_data(observed: Observed) -> object:
    return observed.plan.data.model_copy(update={"digest": None})


def _per_item(first: Sum, second: Sum) -> np.ndarray:
    """How much every item's part of a sum changed [items]."""
    for name, array in first.arrays.items():
        change = (array.astype(np.float64) - second.arrays[name]) / first.spec[name].unit
        if array.ndim == 2:
            return np.abs(change).sum(axis=1)
        if name == "gram":
            n = (math.isqrt(8 * len(array) + 1) - 1) // 2
            return np.diag(unpack_triangle(change, n))
    raise ValueError("no array of the round has a row per item")


def _missing_user(first: Sum, second: Sum, length: int) -> np.ndarray:
    """Positions of items that the user is taken to have: those that changed most; where not all rows of factors
    changed, the side of them that a row-sign attack picks."""
    if "items" in first.arrays:
        change = (first.arrays["items"].astype(np.float64) - second.arrays["items"]) / first.spec["items"].unit
        rows = np.flatnonzero(np.abs(change).sum(axis=1) > 0)
        if 0 < len(rows) < len(change):
            return rows[row_sign(change[rows], change[rows], 0.0)]
    return np.argsort(-_per_item(first, second), kind="stable")[:length]


def _f1(guess: np.ndarray, truth: np.ndarray) -> float:
    """F1 of two sets of positions."""
    return 2.0 * float(np.isin(guess, truth).sum()) / max(len(guess) + len(truth), 1)


def _guessing(observed: Observed) -> float:
    """The F1 of predicting the most popular items."""
    clients = observed.engine.shards[0].clients
    counts = np.bincount(clients.items, minlength=clients.n_items)
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    inside = rank[clients.items] < np.repeat(clients.lengths, clients.lengths)
    owners = np.repeat(np.arange(len(clients)), clients.lengths)
    hits = np.bincount(owners, inside, len(clients))[clients.lengths > 0]
    return float((hits / clients.lengths[clients.lengths > 0]).mean())


def singletons(observed: Observed) -> Finding:
    """Detect items of a single client in a sum of counts, by separating counts of 1 from counts of 0."""
    first = observed.rounds[0].released
    clients = observed.engine.shards[0].clients
    truth = np.bincount(clients.items, minlength=clients.n_items)
    seen = _per_item(first, Sum.zeros(first.spec, first.round))
    ones, zeros = seen[truth == 1], seen[truth == 0]
    if len(ones) == 0:
        return Finding(
            "singletons", "cohort", "items of one client", 0.0, None, "pass", "no item has exactly one client"
        )
    terms = observed.plan.privacy
    if terms is None:
        return Finding(
            "singletons",
            "cohort",
            "items of a single client in a sum",
            float(len(ones)),
            None,
            "fail",
            f"{len(ones)} of {len(truth)} items have a single client, and the first sum shows that",
        )
    threshold = np.quantile(zeros, 0.99) if len(zeros) >= 100 else np.quantile(seen, 0.99)
    above = int((ones > threshold).sum())
    rate, least = above / len(ones), float(beta.ppf(1 - _CONFIDENCE, above, len(ones) - above + 1)) if above else 0.0
    bound = min(1.0, math.exp(terms.epsilon) * 0.01 + terms.delta)
    return Finding(
        "singletons",
        "cohort",
        "share of items of one client that are told from items of none, at 1 % false alarms",
        rate,
        bound,
        "fail" if least > bound else "pass",
        f"{rate:.1%} of {len(ones)} items of a single client are detected; the promise allows {bound:.1%}",
    )
