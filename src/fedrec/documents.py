"""Files and documents (JSON, TOML, YAML) that somebody else may have written, read without a way to fill the memory.

A file is read only if it is a regular one and no longer than it may be. A document must be shallow, say every key once,
and take no more memory than its length allows: YAML's anchors and aliases, which repeat a part for a few bytes, are
refused, and so are its tags. What is wrong is a `DocumentError`, which says where; who reads says of which file.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from fedrec.errors import PlanError

__all__ = [
    "MOST_LINES",
    "MOST_SETTINGS",
    "DocumentError",
    "open_file",
    "parse_json",
    "parse_toml",
    "parse_yaml",
    "read_file",
    "renamed_keys",
]

MOST_SETTINGS = 1 << 20
"""Bytes of a file of settings, a plan among them: a thousand times what one has."""
MOST_LINES = 1 << 28
"""Bytes of a log, line by line: a thousand rounds of a thousand nodes have a quarter of it."""
_MOST_DEPTH = 64
_MOST_PARTS = 1 << 21
"""Lists and mappings of a document: an empty one takes 64 bytes or more, whatever little it takes in the file."""
_MOST_DIGITS = 400
_MOST_KEPT = 1 << 14
"""Letters of a YAML text whose value is kept: a run reads its plan again and again."""
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class DocumentError(ValueError):
    """A file or document that is not read: too long, too deep, not a regular file, or not in its language."""


def read_file(path: Path, most: int | None = None) -> bytes:
    """Read a regular file of at most `most` bytes.

    Args:
        path: of the file; a link to a file is one.
        most: maximum number of bytes; `None` for the size that the file reports.

    Raises:
        OSError: if there is no such file, or it cannot be read.
        DocumentError: if the path is a device, a pipe or a socket, or the file is too long.
    """
    with open_file(path) as file:
        allowed = os.fstat(file.fileno()).st_size if most is None else most
        data = file.read(allowed + 1)
    if len(data) > allowed:
        raise DocumentError(f"the file is longer than the allowed {allowed:,} bytes")
    return data


def renamed_keys(settings: Any, names: Mapping[str, str], where: str) -> Any:
    """Settings with each old name of a key replaced by its present name.

    Args:
        settings: a mapping; any other value is returned as it is.
        names: present names of keys by their old names.
        where: start of the error text, such as `policy.`.

    Raises:
        PlanError: if the settings have a key under both names.

    Example:
        >>> renamed_keys({"vouch": 20, "secure": True}, {"vouch": "declared_min_users"}, "policy.")
        {'declared_min_users': 20, 'secure': True}
    """
    if not isinstance(settings, Mapping):
        return settings
    for old, new in names.items():
        if old in settings and new in settings:
            raise PlanError(f"{where}{new}: the old name of this key, {old}, is set too; delete {old}")
    return {names.get(key, key): value for key, value in settings.items()}


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Args:
        path: of the file; a link to a file is one.

    Raises:
        OSError: if there is no such file, or it cannot be read.
        DocumentError: if the path is a device, a pipe or a socket.
    """
    # A pipe that nobody writes to must not hang whoever looks what it is.
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode):
        return file
    file.close()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(21, os.strerror(21), str(path))
    raise DocumentError("a device, a pipe or a socket, not a regular file")


def parse_json(text: str | bytes | bytearray) -> Any:
    """Parse a JSON document.

    Raises:
        DocumentError: if the text is not JSON, repeats a key, or is nested too deep.

    >>> parse_json('{"a": [1, 2]}')
    {'a': [1, 2]}
    >>> parse_json('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    fedrec.documents.DocumentError: key 'a' appears more than once
    """
    parts = _count(text, "[") + _count(text, "{")
    if parts > _MOST_PARTS:
        raise DocumentError(f"the document has more than {_MOST_PARTS:,} lists and mappings")
    try:
        made = json.loads(text, object_pairs_hook=_each_key_once)
    except RecursionError:
        raise _too_deep() from None
    except DocumentError:
        raise
    except ValueError as error:  # not JSON, not UTF-8, or a number of too many digits
        raise DocumentError(f"not JSON: {error}") from None
    return _shallow(made) if parts > _MOST_DEPTH else made


def parse_toml(text: str) -> Any:
    """Parse a TOML document.

    Raises:
        DocumentError: if the text is not TOML, or is nested too deep.
    """
    try:
        return _shallow(tomllib.loads(text))
    except RecursionError:
        raise _too_deep() from None
    except DocumentError:
        raise
    except ValueError as error:
        raise DocumentError(str(error)) from None


def parse_yaml(text: str) -> Any:
    """Parse a YAML document.

    Raises:
        DocumentError: if the text is not YAML, repeats a key, is nested too deep, or has anchors, aliases or tags;
            names the line.

    >>> parse_yaml("{a: [1, 2.5, x], b: null}")
    {'a': [1, 2.5, 'x'], 'b': None}
    >>> parse_yaml("a: &all [x]\\nb: *all")
    Traceback (most recent call last):
    fedrec.documents.DocumentError: line 1: anchors and aliases (& and *) are not allowed; write the value out
    """
    return _loaded(text) if len(text) > _MOST_KEPT else copy.deepcopy(_kept(text))


def _loaded(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a safe loader
    except DocumentError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # a date that is none is a ValueError
        raise DocumentError(" ".join(str(error).split())) from None


_kept = functools.lru_cache(maxsize=16)(_loaded)


class _Loader(yaml.SafeLoader):
    """Builds nothing that is larger than its text, and nothing twice."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node of the document, if it has no name by which it could be repeated, and is not too deep."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if getattr(event, "anchor", None) is not None:
            raise DocumentError(f"line {line}: anchors and aliases (& and *) are not allowed; write the value out")
        if getattr(event, "tag", None) is not None:
            raise DocumentError(
                f"line {line}: tags ({event.tag[:40]!r}) are not allowed; write the value without a tag"
            )
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise DocumentError(f"line {line}: {_too_deep()}")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, once its keys are known to differ, where YAML would silently take the last."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key.value, str):
                if key.value in seen:
                    raise DocumentError(f"line {node.start_mark.line + 1}: key {key.value!r} appears more than once")
                seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """A scalar; a number is short, as those in base 60 take the square of their length in time."""
        if node.tag in _NUMBERS and len(node.value) > _MOST_DIGITS:
            raise DocumentError(f"line {node.start_mark.line + 1}: a number has more than {_MOST_DIGITS} characters")
        return super().construct_scalar(node)


def _too_deep() -> DocumentError:
    return DocumentError(f"lists or mappings are nested deeper than {_MOST_DEPTH} levels")


def _count(text: str | bytes | bytearray, mark: str) -> int:
    return text.count(mark) if isinstance(text, str) else text.count(mark.encode())


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        again = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DocumentError(f"key {again[:80]!r} appears more than once")
    return made


def _shallow(made: Any) -> Any:
    """The value, if it is not nested too deep."""
    level = [made] if isinstance(made, dict | list) else []
    for _ in range(_MOST_DEPTH):
        level = [
            part
            for whole in level
            for part in (whole.values() if isinstance(whole, dict) else whole)
            if isinstance(part, dict | list)
        ]
        if not level:
            return made
    raise _too_deep()
