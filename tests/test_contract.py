"""What every model of the library promises: the tests that models of others inherit, and more."""

from __future__ import annotations

from typing import Any

import pytest

from fedrec.errors import PlanError
from fedrec.estimators.estimator import estimator
from fedrec.models.registry import MODELS, model_class
from fedrec.testing import RecommenderContract
from runs_in_test import ENCODED

pytestmark = pytest.mark.filterwarnings("ignore:ratings .or weights. from")  # values do not matter here

SETTINGS: dict[str, dict[str, Any]] = {
    "adapter": {"rounds": 20, "rank": 4, "window": 12},
    "autoencoder": {"rounds": 20},
    "blend": {"models": [{"name": "ease"}, {"name": "autoencoder", "rounds": 8}]},
    "fedncf": {"learning_rate": 0.2, "rounds": 80, "reg": 0.02},
    "fedrecon": {"embedding_size": 4, "reg": 0.02},
    "fedrap": {"rounds": 10},
    "gpfedrec": {"rounds": 10},
    "lightgcn": {"embedding_size": 8, "rounds": 20},
    "neumf": {"rounds": 40, "window": 12, "hidden": [8], "learning_rate": 0.07},
    "sasrec": {
        "rounds": 30,
        "learning_rate": 0.02,
        "window": 8,
        "embedding_size": 8,
        "blocks": 1,
        "heads": 1,
        "loss": "softmax",
        "passes": 1,
    },
    "two-tower": {"rounds": 30, "window": 12, "embedding_size": 8, "hidden": 8, "passes": 1},
}
"""Where the defaults are for larger data."""
NO_TASTE = {"popularity", "biased-mf", "fedrap", "gpfedrec", "pfedrec"}
"""Models that recommend the same to everybody, that predict how well an item is liked and not who will want it, or
that rank by rows of a client's own: on so small a catalog every item that it does not have was its negative, so what is
missing of its own group is at the bottom with all others."""

for _name in sorted(MODELS.keys() - ENCODED):
    _members = {
        "model": model_class(_name),
        "settings": SETTINGS.get(_name, {}),
        "knows_taste": _name not in NO_TASTE,
        "__module__": __name__,
    }
    _title = f"Test{model_class(_name).__name__}"
    globals()[_title] = type(_title, (RecommenderContract,), _members)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_unknown_settings_are_errors_with_a_near_name(name: str) -> None:
    for key in model_class(name).model_fields:
        with pytest.raises(PlanError, match=rf"Did you mean '{key}'"):
            estimator(name)(**{f"{key}x": 1})
