"""Checks arguments of public functions against the types in their signatures.

A function checks its arguments in its first line, `check_arguments(function, locals())`. So a number in place of a path
is an `InputError` that names the parameter. Each function itself checks what types do not say, such as the range of a
number.
"""

from __future__ import annotations

import functools
import os
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Union

import numpy as np

from fedrec.errors import InputError

__all__ = ["check_arguments", "check_fields"]

_WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "None",
}
_KINDS: dict[Any, tuple[type, ...]] = {
    bool: (bool, np.bool_),
    int: (int, np.integer),
    float: (int, float, np.integer, np.floating),
}


def check_arguments(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Check arguments against the annotations of the function's parameters.

    Args:
        function: the function that was called.
        given: values by parameter; other names are ignored.

    Raises:
        InputError: naming the first parameter whose value is of another type.

    Example:
        >>> def shown(names: list[str], n: int = 10) -> None: ...
        >>> check_arguments(shown, {"names": "ab", "n": 3})
        Traceback (most recent call last):
        fedrec.errors.InputError: names must be a list of text, not 'ab'
    """
    for name, hint in _hints(function).items():
        if name in given and name != "return":
            _check(name, given[name], hint)


def check_fields(value: object) -> None:
    """Check the fields of a data class against their annotations.

    Raises:
        InputError: naming the first field whose value is of another type.
    """
    check_arguments(type(value), vars(value))


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(function)


def _check(name: str, value: object, hint: object) -> None:
    if not _fits(value, hint):
        raise InputError(f"{name} must be {_words(hint)}, not {_shown(value)}")
    if isinstance(value, str) and "\0" in value and any(_is_path(choice) for choice in _choices(hint)):
        raise InputError(f"{name}: {value!r} a path must not contain a NUL character")


def _fits(value: object, hint: object) -> bool:
    """Whether a value is of a type, and what it holds is, where it is a list, a tuple or a mapping."""
    if hint in (Any, object) or isinstance(hint, typing.TypeVar):
        return True
    choices = _choices(hint)
    if len(choices) > 1:
        return any(_fits(value, choice) for choice in choices)
    kind, inner = _origin(hint), typing.get_args(hint)
    if kind is Literal:
        return type(value) in {type(choice) for choice in inner}
    if kind in _KINDS:
        return isinstance(value, _KINDS[kind]) and (kind is bool or not isinstance(value, bool))
    if kind is type:
        return isinstance(value, type) and issubclass(value, inner or (object,))
    if not isinstance(value, Iterable if kind is Sequence else kind):  # arrays and columns of tables are lists, too
        return False
    if not inner or kind in (Callable, os.PathLike):
        return True
    if isinstance(value, Mapping) and issubclass(kind, Mapping):
        return all(_fits(part, side) for pair in value.items() for part, side in zip(pair, inner, strict=True))
    if isinstance(value, str | bytes | Mapping):  # each is iterable, and never meant as a list of its letters or keys
        return False
    return not isinstance(value, list | tuple) or all(_fits(part, inner[0]) for part in value)


def _choices(hint: object) -> tuple[object, ...]:
    """The members of a union; the type itself where it is none."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return tuple(member for choice in typing.get_args(hint) for member in _choices(choice))
    return (hint,)


def _origin(hint: object) -> Any:
    kind = typing.get_origin(hint) or hint
    return type(None) if kind is None else kind


def _is_path(hint: object) -> bool:
    kind = _origin(hint)
    return isinstance(kind, type) and issubclass(kind, os.PathLike)


def _words(hint: object) -> str:
    choices = [choice for choice in _choices(hint) if choice is not type(None)]
    if len(choices) > 1:
        path = any(_is_path(choice) for choice in choices)
        said = ["a path"] * path
        for choice in choices:
            if path and (choice is str or _is_path(choice)):
                continue
            inner = typing.get_args(choice)
            lists = bool(inner) and set(_choices(inner[0])) <= set(choices)
            said.append("a list of them" if lists and len(said) > 1 else _words(choice))
        return " or ".join(said)
    kind, inner = _origin(choices[0]), typing.get_args(choices[0])
    if kind in _WORDS:
        return _WORDS[kind]
    if _is_path(kind):
        return "a path"
    if kind is Literal:
        return " or ".join(repr(choice) for choice in inner)
    if kind is Callable:
        return "a function"
    if kind is type:
        return f"a class of {inner[0].__name__}"
    if issubclass(kind, Mapping):
        return "a mapping of text to text" if inner == (str, str) else "a mapping"
    if inner and issubclass(kind, Iterable):
        if inner[0] in (Any, object):
            return "a list"
        words = _words(inner[0])
        return "a list of paths" if words == "a path" else f"a list of {words}"
    return _named(kind)


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool | int | float | str | bytes | np.generic | list | tuple | dict):
        return reprlib.repr(value)
    return _named(type(value))


def _named(kind: type) -> str:
    home = kind.__module__.split(".")[0]
    name = kind.__name__ if home in ("fedrec", "builtins") else f"{home} {kind.__name__}"
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
