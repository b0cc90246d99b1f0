"""Writes src/fedrec/__init__.pyi: what type checkers and editors know of `fedrec`, whose names are loaded when used.

    python deploy/public_types.py

All of it is read from the code; tests/test_public_types.py holds that the file is up to date.
"""

from __future__ import annotations

import inspect
import types
import typing
from pathlib import Path
from typing import Any

import fedrec
from fedrec.estimators.estimator import Estimator
from fedrec.models.registry import MODELS, model_class

FILE = Path(fedrec.__file__).with_suffix(".pyi")
HEAD = '''"""What `fedrec` offers, for type checkers. Made from the code by deploy/public_types.py; do not edit."""

from collections.abc import Sequence
from typing import Any, Literal

'''


def stub() -> str:
    """The text of the file."""
    ours = {home.partition(":")[2]: name for name, home in MODELS.items()}
    imports = [f"from {home} import {name} as {name}" for name, home in fedrec._HOMES.items() if name not in ours]
    homes = sorted(imports)
    classes = [_estimator(name, ours[name]) for name in fedrec._HOMES if name in ours]
    return HEAD + "\n".join(homes) + "\n\n__version__: str\n\n" + "\n\n".join(classes) + "\n"


def _estimator(name: str, model: str) -> str:
    """The class of an estimator with the hyperparameters of its model."""
    own = {key: _words(field.annotation) for key, field in model_class(model).model_fields.items()}
    shared = {
        key: parameter.annotation
        for key, parameter in inspect.signature(Estimator).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    lines = "".join(f"        {key}: {words} = ...,\n" for key, words in (own | shared).items())
    return f"class {name}(Estimator):\n    def __init__(\n        self,\n        *,\n{lines}    ) -> None: ..."


def _words(kind: Any) -> str:
    """A type as it is written."""
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return _words(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_words, typing.get_args(kind)))
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(_quoted, typing.get_args(kind)))}]"
    if origin is tuple:  # of any length: a list will do
        return f"Sequence[{_words(typing.get_args(kind)[0])}]"
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(_words, typing.get_args(kind)))}]"
    return "None" if kind is type(None) else str(kind.__name__)


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    FILE.write_text(stub(), encoding="utf-8")
