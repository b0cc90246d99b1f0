"""Noise on every coordinate of a sum, before the sum is used.

The sum is integers, and the noise is Gaussian noise rounded to integers: rint(S + g) = S + rint(g), so the released
integers are a rounding of the Gaussian mechanism's output, and rounding costs no privacy. The grid is at least 2^8
steps per deviation and the words behind a draw have 53 bits, so the gaps between floating-point numbers, which
reveal unrounded noise (Mironov 2012), are far below the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedrec.aggregation.queries import Query, deviations
from fedrec.aggregation.sums import Sum
from fedrec.kernels.noise import normals
from fedrec.privacy.chance import Chance

__all__ = ["noised"]

_BLOCK = 1 << 22


def noised(total: Sum, queries: Sequence[Query], noise_multiplier: float, clients: int, chance: Chance) -> Sum:
    """The sum with noise, for release.

    Args:
        total: the exact sum of a round; its arrays are overwritten.
        queries: queries of the round.
        noise_multiplier: noise multiplier of the round.
        clients: public number of clients, which replaces the exact number.
        chance: source of the noise.

    Returns:
        The sum with noise on every coordinate, its exact counts replaced by public ones.
    """
    scales, part = {}, 0
    for query in queries:
        deviation = query.deviation(noise_multiplier)
        for name, metric in query.metrics.items():
            spec, flat = total.spec[name], total.arrays[name].reshape(-1)
            scales[name] = deviation
            for tile, sd in deviations(metric, spec, deviation):
                for start in range(tile.start, tile.stop, _BLOCK):
                    stop = min(start + _BLOCK, tile.stop)
                    draws = np.empty((stop - start + 1) // 2 * 2)
                    normals(chance.words(len(draws), total.round, part), draws)
                    part_sd = sd if len(sd) == 1 else sd[start - tile.start : stop - tile.start]
                    flat[start:stop] += np.rint(draws[: stop - start] * (part_sd * spec.unit)).astype(flat.dtype)
                    part += 1
    return replace(total, clients=clients, left_out=0, saturated=0, noise=scales)
