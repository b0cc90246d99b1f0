"""Domains: kinds of items, such as books and films, that a column of the catalog names."""

from __future__ import annotations

import numpy as np
import polars as pl

from fedrec.data.catalog import Catalog
from fedrec.errors import PlanError, suggestion

__all__ = ["DOMAIN", "items_of_domain"]

DOMAIN = "domain"
"""Column of the catalog."""


def items_of_domain(catalog: Catalog, domain: str) -> np.ndarray:
    """Which items are of a domain [items] bool.

    Raises:
        PlanError: if the catalog has no column `domain`, or no such domain.

    >>> table = pl.DataFrame({"item_id": [1, 2, 3], "domain": ["books", "films", "books"]})
    >>> items_of_domain(Catalog.of(table), "books").tolist()
    [True, False, True]
    """
    if catalog.features is None or DOMAIN not in catalog.features.columns:
        raise PlanError(
            f"{domain!r} names a domain, and the catalog has no column {DOMAIN}; add one that says of each item which "
            "domain it is of"
        )
    domains = catalog.features[DOMAIN].cast(pl.String)
    found = (domains == domain).fill_null(False).to_numpy()
    if not found.any():
        known = domains.drop_nulls().unique().sort().head(20).to_list()
        raise PlanError(f"{domain!r} is no domain of the catalog{suggestion(domain, known)}")
    return found
