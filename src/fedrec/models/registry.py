"""Recommenders by the name that plans and commands use."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fedrec.errors import PlanError, enumerated, suggestion
from fedrec.models.base import Recommender
from fedrec.models.builtin import MODELS
from fedrec.models.own import VARIABLE, own_models

__all__ = ["MODELS", "build_model", "is_known", "meant", "model_class", "model_names", "models_where"]

_ALIASES = {
    "embedding_size": {"factors", "n_factors", "num_factors", "no_components", "n_components", "dim", "dims", "k", "d",
                       "embedding_dim", "emb_size", "latent_dim", "hidden_dim", "rank", "features"},
    "rank": {"factors", "n_factors", "num_factors", "n_components", "k", "dim", "embedding_size"},
    "neighbours": {"k", "neighbors", "n_neighbors", "n_neighbours", "knn", "topk"},
    "learning_rate": {"lr", "eta", "step_size", "client_lr", "local_lr"},
    "server_learning_rate": {"server_lr", "global_lr"},
    "rounds": {"n_epochs", "iterations", "n_iter", "n_iterations", "num_iterations", "max_iter", "n_rounds",
               "num_rounds", "global_rounds", "sweeps", "epochs"},
    "epochs": {"n_epochs", "local_epochs", "num_epochs", "client_epochs"},
    "reg": {"reg_all", "lambda", "lambda_", "lam", "l2", "l2_reg", "regularization", "regularisation", "reg_lambda"},
    "weight_decay": {"l2", "decay", "reg"},
    "unobserved_weight": {"alpha0", "w0"},
    "alpha": {"confidence", "weight"},
    "negatives": {"num_neg", "n_negatives", "num_negatives", "neg_samples", "negative_samples", "num_negs", "neg"},
    "batch_size": {"batch", "bs"},
    "init_sd": {"init_std", "init_scale", "std"},
    "seed": {"random_state", "random_seed"},
    "cohort": {"participation", "fraction_fit", "fraction", "clients_per_round", "sample_rate"},
    "passes": {"power_iterations", "n_iter"},
}  # fmt: skip
"""Settings and what other libraries call them; the first that a model has is suggested."""


def model_class(name: str) -> type[Recommender]:
    """The class of a model.

    Raises:
        PlanError: for an unknown name.
    """
    if name in MODELS:
        module, _, attribute = MODELS[name].partition(":")
        kind: type[Recommender] = getattr(importlib.import_module(module), attribute)
        return kind
    models = own_models()
    if name not in models:
        hint = suggestion(name, [*MODELS, *models]).rstrip(".")
        raise PlanError(
            f"model {name!r} is not known{hint}{'' if hint.endswith('?') else '.'} To use a model of your own, install "
            f"its package or set {VARIABLE}=file.py:Class"
        )
    kind = models[name].load()
    if kind.name != name:
        raise PlanError(f"the model of {models[name].origin} is named {kind.name!r}, not {name!r}; make them equal")
    return kind


def is_known(name: object) -> bool:
    """Whether a model has this name."""
    return isinstance(name, str) and (name in MODELS or name in own_models())


def model_names() -> list[str]:
    """Names of all models: fedrec's own, then those that packages and the environment bring.

    Raises:
        PlanError: if one of these has the name of one of fedrec's own.
    """
    models = own_models()
    for name in models.keys() & MODELS.keys():
        raise PlanError(
            f"{models[name].origin} brings a model {name!r}, but fedrec has a model of that name; rename the former"
        )
    return [*MODELS, *sorted(models)]


def build_model(name: str, settings: Mapping[str, Any]) -> Recommender:
    """A model with its hyperparameters.

    Raises:
        PlanError: for an unknown name, an unknown hyperparameter or an impossible value.

    Example:
        >>> build_model("ease", {"reg": 200})
        EASE(reg=200.0, alpha=0.0, rank=None, passes=2, decay=1.0, item_features=None, ..., dropout=4.0)
    """
    kind = model_class(name)
    try:
        return kind(**settings)
    except ValidationError as error:
        said = explain(error, f"model {name}", list(kind.model_fields))
        raise PlanError(f"{said.rstrip('.')} ('fedrec models {name}' lists all settings)") from None


def models_where(fits: Callable[[Recommender], bool]) -> str:
    """Names of the models that fit as they are by default, as a sentence lists them: fedrec's own, then those of
    packages, of the environment and of this process.

    A model that cannot be loaded, made without settings or asked is left out: a network without PyTorch, or the code of
    others. The sentence is about something else.

    >>> models_where(lambda model: model.traits.moves_by_rows)
    'fedncf, fedrecon and mf'
    """
    names = sorted(name for name in MODELS if _fits(name, fits))
    with suppress(PlanError):
        names += sorted(name for name in own_models() if name not in MODELS and _fits(name, fits))
    return enumerated(names)


def _fits(name: str, fits: Callable[[Recommender], bool]) -> bool:
    try:
        return fits(model_class(name)())
    except Exception:  # whatever the code of others raises
        return False


def meant(name: object, known: Iterable[str]) -> str:
    """Which setting was meant: by a name that other libraries have for it, or a near one.

    >>> meant("n_factors", ["embedding_size", "rounds"]), meant("k", ["neighbours"]), meant("rond", ["rounds"])
    (". Did you mean 'embedding_size'?", ". Did you mean 'neighbours'?", ". Did you mean 'rounds'?")
    """
    settings = list(known)
    asked = str(name).lower().replace("-", "_")
    for setting, aliases in _ALIASES.items():
        if asked in aliases and setting in settings:
            return f". Did you mean {setting!r}?"
    return suggestion(name, settings)


def explain(error: ValidationError, where: str, known: list[str]) -> str:
    """One thing wrong with a configuration, in one line, with a near name where there is one."""
    first = foremost(error)
    key = ".".join(str(part) for part in first["loc"] if not re.search(r"[-\[]", str(part)))  # tags of unions
    if first["type"] == "extra_forbidden":
        return f"{where}: {key!r} is not a setting{meant(first['loc'][-1], known)}"
    given = "" if first["type"] == "missing" else f", not {first['input']!r}"
    said = first["msg"].removeprefix("Value error, ")
    return f"{where}: {key or 'settings'}: {said[:1].lower()}{said[1:]}{given}"


def foremost(error: ValidationError) -> ErrorDetails:
    """What to tell first: a key that is no setting, before anything else."""
    found = error.errors()
    return next((wrong for wrong in found if wrong["type"] == "extra_forbidden"), found[0])
