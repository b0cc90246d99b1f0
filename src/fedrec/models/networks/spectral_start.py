"""A start for two tables of item vectors, from the leading spectrum of an item Gram matrix.

`fedrec.models.linear.sketch` sums the sketches; here they become tables.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedrec.models.linear.sketch import Spectrum

__all__ = ["start_tables"]


def start_tables(
    spectrum: Spectrum, width: int, clients: float, length: float, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """E and W [items, width] float32 such that W Eᵀ filters the spectrum of G = Σ_u a_u a_uᵀ, a_u = n_u^−α D x_u.

    With the leading eigenpairs V, Λ of G and f = Λ / (Λ + its smallest): E = D V √f and W = D⁻¹ V √f, both scaled so
    that they have equal norms, and that the logits W Eᵀ x_u / √n_u have a deviation of 1 over items and clients where
    all clients have the mean number of items. Columns without an eigenvector, and items that nobody has, are 0.

    Args:
        spectrum: of the last pass, with the diagonal of D.
        width: eigenpairs to take.
        clients: summed in that pass.
        length: mean number of items of a client.
        alpha: α.
    """
    sketched = spectrum.sketched
    spectrum = replace(spectrum, turn=spectrum.turn[:, :width], values=spectrum.values[:width])
    items, found = len(sketched.weights), len(spectrum.values)
    encoder, decoder = (np.zeros((items, width), dtype=np.float32) for _ in range(2))
    if found == 0:
        return encoder, decoder
    filtered = spectrum.values / (spectrum.values + spectrum.values[-1])
    inverse = np.divide(1.0, sketched.weights, out=np.zeros(items), where=sketched.weights > 0)
    for rows in sketched.tiles():
        basis = spectrum.basis(rows, np.sqrt(filtered))
        encoder[rows, :found] = basis * sketched.weights[rows, None]
        decoder[rows, :found] = basis * inverse[rows, None]
    spread = filtered * spectrum.values * length ** (2 * alpha - 1) / clients
    centred = decoder[:, :found] - decoder[:, :found].mean(axis=0, dtype=np.float64)
    deviation = float(np.sqrt(np.mean(np.square(centred).sum(axis=0) * spread) * found / items))
    norms = [float(np.sqrt(np.square(table.astype(np.float64)).sum())) for table in (encoder, decoder)]
    if min(deviation, *norms) > 0:
        balance = np.sqrt(norms[1] / norms[0])
        encoder *= balance / np.sqrt(deviation)
        decoder /= balance * np.sqrt(deviation)
    return encoder, decoder
