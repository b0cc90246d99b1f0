"""Models that fedrec does not bring itself: those of installed packages, of files that the environment names, and of
this process.

Nothing here is loaded before a name is asked for that fedrec's own models do not have. A plan names a model and never
code: which code a name stands for is decided by who installed the package, or set the variable, on that machine.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from fedrec.errors import PlanError
from fedrec.models.base import Recommender
from fedrec.models.builtin import MODELS

__all__ = ["GROUP", "VARIABLE", "Own", "class_from", "own_models", "register", "remember"]

GROUP = "fedrec.models"
"""Group of entry points by which an installed package brings models: name = module:class."""
VARIABLE = "FEDREC_MODELS"
"""Environment variable that names further models, with commas: `folder/file.py:Class` or `package.module:Class`."""
_registered: dict[str, type[Recommender]] = {}


@dataclass(frozen=True)
class Own:
    """A model by where it comes from.

    Args:
        origin: for messages.
        home: its class, or where that is.
    """

    origin: str
    home: str | type[Recommender]

    def load(self) -> type[Recommender]:
        """The class.

        Raises:
            PlanError: if there is no such class, its code fails, or it is not a recommender.
        """
        return _loaded(self.home, self.origin) if isinstance(self.home, str) else self.home


def own_models() -> dict[str, Own]:
    """Models that are not fedrec's own, by name.

    Raises:
        PlanError: if two of them have one name, or one that `FEDREC_MODELS` names cannot be loaded.
    """
    models = {name: Own("this process", kind) for name, kind in _registered.items()}
    for entry in entry_points(group=GROUP):
        package = f"package {entry.dist.name} {entry.dist.version}" if entry.dist is not None else "a package"
        _put(models, entry.name, Own(package, entry.value))
    for home in _homes():
        kind = class_from(home)
        if _registered.get(kind.name) is not kind:
            _put(models, kind.name, Own(f"{VARIABLE}={home}", kind))
    return models


def _homes() -> list[str]:
    """The places that the environment names."""
    return [part.strip() for part in os.environ.get(VARIABLE, "").split(",") if part.strip()]


def _put(models: dict[str, Own], name: str, model: Own) -> None:
    if name in models:
        raise PlanError(
            f"two models have the name {name!r}: the model of {models[name].origin} and that of {model.origin}. Rename "
            "or remove one of the two models"
        )
    models[name] = model


def register(kind: type[Recommender]) -> None:
    """Make a class known to this process under its `name`; fedrec's own are known already.

    Raises:
        PlanError: if it is not a recommender, or another class has the name.
    """
    _check(kind, getattr(kind, "__qualname__", repr(kind)))
    if kind.name in MODELS:
        return
    earlier = _registered.setdefault(kind.name, kind)
    if earlier is not kind and (earlier.__module__, earlier.__qualname__) != (kind.__module__, kind.__qualname__):
        raise PlanError(
            f"{earlier.__module__}.{earlier.__qualname__} already has the model name {kind.name!r}; choose another name"
        )
    _registered[kind.name] = kind


def class_from(home: str) -> type[Recommender]:
    """The class that `folder/file.py:Class` or `package.module:Class` names; a file is run once in a process.

    Raises:
        PlanError: if there is no such class, its code fails, or it is not a recommender.
    """
    return _loaded(home, home)


def remember(home: str) -> str:
    """Load the class that `home` names, keep it known to this process and the processes that it starts, and give its
    name."""
    place, _, attribute = home.rpartition(":")
    lasting = f"{Path(place).resolve()}:{attribute}" if place.endswith(".py") else home
    kind = class_from(lasting)
    os.environ[VARIABLE] = ",".join([*(other for other in _homes() if other != lasting), lasting])
    return kind.name


def _loaded(home: str, origin: str) -> type[Recommender]:
    place, colon, attribute = home.rpartition(":")
    if not colon or not place or not attribute:
        raise PlanError(f"{home!r} does not name a class; write folder/file.py:Class or package.module:Class")
    try:
        module = _of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        kind = getattr(module, attribute)
    except Exception as error:
        raise PlanError(f"the model of {origin} cannot be loaded: {type(error).__name__}: {error}") from error
    _check(kind, origin)
    checked: type[Recommender] = kind
    return checked


def _of_file(path: Path) -> object:
    place = path.resolve()
    name = f"{place.stem}_{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, place)
        assert spec is not None, "a path that ends in .py has a loader"
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _check(kind: object, origin: str) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Recommender)):
        raise PlanError(f"the model of {origin} is not a class derived from fedrec.models.base.Recommender")
    if not isinstance(getattr(kind, "name", None), str):
        raise PlanError(f'the model of {origin} has no name; set name: ClassVar[str] = "…" in the class')
    if kind.name in MODELS and MODELS[kind.name] != f"{kind.__module__}:{kind.__qualname__}":
        raise PlanError(f"fedrec has a model {kind.name!r} of its own; give the class {kind.__qualname__} another name")
