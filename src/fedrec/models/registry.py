"""Recommenders by the name that plans and commands use."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fedrec.errors import PlanError, suggestion
from fedrec.models.base import Recommender

__all__ = ["MODELS", "build_model", "model_class"]

MODELS = {
    "ease": "fedrec.models.ease:EASE",
    "fcf": "fedrec.models.fcf:FCF",
    "fedrecon": "fedrec.models.fedrecon:FedRecon",
    "fedncf": "fedrec.models.fedncf:FedNCF",
    "fedrap": "fedrec.models.fedrap:FedRAP",
    "gpfedrec": "fedrec.models.gpfedrec:GPFedRec",
    "ials": "fedrec.models.ials:IALS",
    "itemknn": "fedrec.models.itemknn:ItemKNN",
    "mf": "fedrec.models.mf:MF",
    "pfedrec": "fedrec.models.pfedrec:PFedRec",
    "popularity": "fedrec.models.popularity:Popularity",
    "spectral": "fedrec.models.spectral:Spectral",
}
"""Name → module:class, imported when asked for."""


def model_class(name: str) -> type[Recommender]:
    """The class of a model.

    Raises:
        PlanError: for an unknown name.
    """
    if name not in MODELS:
        raise PlanError(f"model {name!r} is not known{suggestion(name, MODELS)}")
    module, _, attribute = MODELS[name].partition(":")
    found: type[Recommender] = getattr(importlib.import_module(module), attribute)
    return found


def build_model(name: str, settings: Mapping[str, Any]) -> Recommender:
    """A model with its hyperparameters.

    Raises:
        PlanError: for an unknown name, an unknown hyperparameter or an impossible value.

    Example:
        >>> build_model("ease", {"reg": 200})
        EASE(reg=200.0, alpha=0.0, rank=None, passes=2)
    """
    kind = model_class(name)
    try:
        return kind(**settings)
    except ValidationError as error:
        raise PlanError(explain(error, f"model {name}", list(kind.model_fields))) from None


def explain(error: ValidationError, where: str, known: list[str]) -> str:
    """One thing wrong with a configuration, in one line, with a near name where there is one."""
    first = foremost(error)
    key = ".".join(str(part) for part in first["loc"] if not re.search(r"[-\[]", str(part)))  # tags of unions
    if first["type"] == "extra_forbidden":
        return f"{where}: {key!r} is not a setting{suggestion(first['loc'][-1], known)}"
    given = "" if first["type"] == "missing" else f", not {first['input']!r}"
    said = first["msg"].removeprefix("Value error, ")
    return f"{where}: {key or 'settings'}: {said[:1].lower()}{said[1:]}{given}"


def foremost(error: ValidationError) -> ErrorDetails:
    """What to tell first: a key that is no setting, before anything else."""
    found = error.errors()
    return next((wrong for wrong in found if wrong["type"] == "extra_forbidden"), found[0])
