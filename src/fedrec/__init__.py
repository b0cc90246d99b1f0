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
    "interactions_from": "fedrec.data.reading.frames",
    "load_data": "fedrec.data.sources",
    "read_catalog": "fedrec.data.reading.catalogs",
    "read_interactions": "fedrec.data.reading.readers",
    "synthetic": "fedrec.data.synthetic",
    "Split": "fedrec.data.splits",
    "cold_items": "fedrec.data.splits",
    "cross_domain": "fedrec.data.splits",
    "given": "fedrec.data.splits",
    "last": "fedrec.data.splits",
    "leave_last_out": "fedrec.data.splits",
    "new_users": "fedrec.data.splits",
    "ratio": "fedrec.data.splits",
    "temporal": "fedrec.data.splits",
    "Adapter": "fedrec.estimators.estimator",
    "Autoencoder": "fedrec.estimators.estimator",
    "BiasedMF": "fedrec.estimators.estimator",
    "Blend": "fedrec.estimators.estimator",
    "Content": "fedrec.estimators.estimator",
    "EASE": "fedrec.estimators.estimator",
    "FCF": "fedrec.estimators.estimator",
    "FedRecon": "fedrec.estimators.estimator",
    "FedNCF": "fedrec.estimators.estimator",
    "FedRAP": "fedrec.estimators.estimator",
    "GPFedRec": "fedrec.estimators.estimator",
    "IALS": "fedrec.estimators.estimator",
    "ItemKNN": "fedrec.estimators.estimator",
    "LightGCN": "fedrec.estimators.estimator",
    "Lora": "fedrec.estimators.estimator",
    "MF": "fedrec.estimators.estimator",
    "PFedRec": "fedrec.estimators.estimator",
    "Rerank": "fedrec.recommending.reranking",
    "Popularity": "fedrec.estimators.estimator",
    "NeuMF": "fedrec.estimators.estimator",
    "SASRec": "fedrec.estimators.estimator",
    "SLIT": "fedrec.estimators.estimator",
    "Spectral": "fedrec.estimators.estimator",
    "TwoTower": "fedrec.estimators.estimator",
    "audit_run": "fedrec.estimators.checks",
    "compare": "fedrec.estimators.checks",
    "forget": "fedrec.estimators.forgetting",
    "verify": "fedrec.estimators.checks",
    "Estimator": "fedrec.estimators.estimator",
    "estimator": "fedrec.estimators.estimator",
    "difference": "fedrec.estimators.measuring",
    "evaluate": "fedrec.estimators.measuring",
    "Federation": "fedrec.estimators.federations",
    "load_model": "fedrec.estimators.estimator",
    "Network": "fedrec.models.networks.network",
    "RatingNetwork": "fedrec.models.networks.rating_network",
    "set_threads": "fedrec.threads",
    "Stopwatch": "fedrec.progress",
    "tune": "fedrec.estimators.tuning",
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
