"""Train, check, deploy and serve recommenders on data that never leaves its owners.

The names below load what they need when they are first used, so that `import fedrec` is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Catalog": "fedrec.data.catalog",
    "Cleaning": "fedrec.data.cleaning",
    "Identifiers": "fedrec.data.identifiers",
    "Interactions": "fedrec.data.interactions",
    "clean": "fedrec.data.cleaning",
    "interactions_from": "fedrec.data.frames",
    "load_data": "fedrec.data.sources",
    "read_catalog": "fedrec.data.catalogs",
    "read_interactions": "fedrec.data.readers",
    "synthetic": "fedrec.data.synthetic",
    "Split": "fedrec.data.splits",
    "given": "fedrec.data.splits",
    "leave_last_out": "fedrec.data.splits",
    "new_users": "fedrec.data.splits",
    "ratio": "fedrec.data.splits",
    "temporal": "fedrec.data.splits",
    "BiasedMF": "fedrec.library",
    "EASE": "fedrec.library",
    "FCF": "fedrec.library",
    "FedRecon": "fedrec.library",
    "FedNCF": "fedrec.library",
    "FedRAP": "fedrec.library",
    "GPFedRec": "fedrec.library",
    "IALS": "fedrec.library",
    "ItemKNN": "fedrec.library",
    "MF": "fedrec.library",
    "PFedRec": "fedrec.library",
    "Popularity": "fedrec.library",
    "Spectral": "fedrec.library",
    "audit_run": "fedrec.checks",
    "compare": "fedrec.checks",
    "verify": "fedrec.checks",
    "evaluate": "fedrec.library",
    "Federation": "fedrec.federations",
    "load_model": "fedrec.library",
    "set_threads": "fedrec.threads",
    "Stopwatch": "fedrec.progress",
    "tune": "fedrec.tuning",
    "FedrecError": "fedrec.errors",
    "InputError": "fedrec.errors",
    "PlanError": "fedrec.errors",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        from fedrec.errors import suggestion

        raise AttributeError(f"fedrec has no {name!r}{suggestion(name, _HOMES)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
