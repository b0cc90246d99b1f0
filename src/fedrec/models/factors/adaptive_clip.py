"""A clip that follows the median norm of contributions (Andrew et al. 2021, "Differentially private learning with
adaptive clipping")."""

from __future__ import annotations

import numpy as np

from fedrec.aggregation.sums import Sum

__all__ = ["BIT_SHARE", "adapted"]

BIT_SHARE = 0.01
"""Share of a round's budget for the bits: noise on everything else grows by 0.5 %."""
_RATE = 0.2
_QUANTILE = 0.5


def adapted(clip: np.ndarray, total: Sum) -> np.ndarray:
    """The next clip [1]: C · exp(−0.2 (b − 0.5)), b the noisy share of clients within C.

    Args:
        clip: the current C [1].
        total: with `within`, the sum of (1 if within else 0) − 0.5 over clients, and a public number of clients.
    """
    share = float(np.clip(total.value("within")[0] / total.clients + 0.5, 0.0, 1.0))
    return clip * np.exp(-_RATE * (share - _QUANTILE))
