"""Structured mutations of files and folders: what somebody might put into a folder that a command opens."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedrec.documents import read_file
from fedrec.federation.checkpoints import ended_state, packed
from fedrec.federation.plan import Plan
from fedrec.record.durable import arrays_digest, load_arrays
from fedrec.record.ledger import rooted_line
from fedrec.record.merkle import Tree

__all__ = ["mutate"]

NUMBERS: list[Any] = [
    -1, 0, 1, 2, 2**31, 2**32 - 1, 2**63, 10**12, 10**30, 10**400, -(2**63), 0.5, -0.0, 1e-320, 1e308, 1.5, True, False,
]  # fmt: skip
WORDS: list[Any] = [
    "", "..", "../../outside", "/dev/zero", "/", "a" * 5000, "\x00", "\ud800", "ease", "synthetic:users=999999999999",
    "é\u202e", "null", "1", "nan", "1e999", "private/../../outside", "%s%s%n", "[[", "mf", "memory",
]  # fmt: skip
OTHERS: list[Any] = [None, [], {}, [[]], {"a": 1}, [1, "a"], {"": None}]
DTYPES = ["F32", "F64", "F16", "BF16", "I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL", "F8_E4M3", "X"]
SIZES = [0, 1, 2, 7, 2**31, 2**63, 2**64 - 1, 2**64, 10**12, -1, 0.5]


def mutate(folder: Path, outside: Path, draw: random.Random) -> str:
    """Change something in a folder, and mend the digests that would give the change away; says what was changed.

    Args:
        folder: is changed.
        outside: a folder that links lead to.
        draw: decides everything.
    """
    said = []
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        if not files:
            break
        path = draw.choice(files)
        change = draw.choice(_CHANGES.get(path.suffix, []) * 4 + _ANY)
        with contextlib.suppress(_CannotError, ValueError, KeyError, OverflowError, RecursionError, yaml.YAMLError):
            before = len(said)
            change(path, outside, draw)
            said.insert(before, f"{change.__name__.strip('_')} {path.relative_to(folder)}")
    if draw.random() < 0.7:
        _mend(folder)
    return ", ".join(said) or "nothing"


class _CannotError(Exception):
    """A file that is not of the kind that its name says, after an earlier change."""


def _flip(path: Path, outside: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 1, 3, 20)) if data else 0):
        data[draw.randrange(len(data))] = draw.randrange(256)
    path.write_bytes(data)


def _truncate(path: Path, outside: Path, draw: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(len(data) + 1)])


def _double(path: Path, outside: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes() * 2)


def _insert(path: Path, outside: Path, draw: random.Random) -> None:
    data = path.read_bytes()
    place = draw.randrange(len(data) + 1)
    path.write_bytes(
        data[:place] + draw.choice((b"\x00", b"\n", b"\xff\xfe", b"[" * 50_000, b"9" * 5000)) + data[place:]
    )


def _remove(path: Path, outside: Path, draw: random.Random) -> None:
    path.unlink()


def _rename(path: Path, outside: Path, draw: random.Random) -> None:
    other = draw.choice((f"{path.stem}-2{path.suffix}", f"round-x{path.suffix}", f"round-000009{path.suffix}", "x"))
    path.rename(path.with_name(other))


def _link(path: Path, outside: Path, draw: random.Random) -> None:
    target = draw.choice((Path("/dev/zero"), Path("/dev/null"), outside / "file", outside / "new", path, Path("/")))
    path.unlink()
    path.symlink_to(target)


def _aside(path: Path, outside: Path, draw: random.Random) -> None:
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    aside.symlink_to(outside / "aside")


def _link_folder(path: Path, outside: Path, draw: random.Random) -> None:
    away = outside / "folder"
    if away.exists() or not (path.parent.parent / "plan.yaml").exists():
        raise _CannotError
    shutil.move(path.parent, away)
    path.parent.symlink_to(away)


def _pipe(path: Path, outside: Path, draw: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path, outside: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _swap(path: Path, outside: Path, draw: random.Random) -> None:
    others = sorted(other for other in path.parent.iterdir() if other.is_file() and other != path)
    if not others:
        raise _CannotError
    path.write_bytes(draw.choice(others).read_bytes())


def _hostile(draw: random.Random) -> Any:
    if draw.random() < 0.05:
        nested: Any = 1
        for _ in range(draw.choice((60, 900))):
            nested = [nested]
        return nested
    return copy.deepcopy(draw.choice(draw.choice((NUMBERS, WORDS, OTHERS))))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _changed_tree(value: Any, draw: random.Random) -> Any:
    """A tree with a leaf or a branch replaced, removed or added."""
    places = list(itertools.islice(_places(value), 100_000))
    if len(places) == 100_000:
        raise _CannotError
    if not places or draw.random() < 0.03:
        return _hostile(draw)
    holder, key = draw.choice(places)
    what = draw.random()
    old = holder[key]
    if what < 0.15:
        del holder[key]
    elif what < 0.25 and isinstance(holder, dict):
        holder[draw.choice((f"{key}x", "extra", "", "name"))] = _hostile(draw)
    elif what < 0.5 and isinstance(old, int | float) and not isinstance(old, bool):
        holder[key] = draw.choice((old + 1, -old, old * 1000, draw.choice(NUMBERS)))
    elif what < 0.6 and isinstance(old, str):
        holder[key] = re.sub(r"\d+", lambda _: str(draw.choice((0, 10**12, 10**30))), old, count=1)
    else:
        holder[key] = _hostile(draw)
    return value


def _json(path: Path, outside: Path, draw: random.Random) -> None:
    changed = _changed_tree(json.loads(path.read_bytes()), draw)
    text = json.dumps(changed)
    if draw.random() < 0.1:
        text = re.sub(r"\b\d+\b", lambda match: draw.choice((match[0], "9" * 5000, "NaN", "1e999")), text)
    if draw.random() < 0.05:
        text = text[:1] + text[1:] + text[1:]
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


def _lines(path: Path, outside: Path, draw: random.Random) -> None:
    lines = path.read_bytes().splitlines()
    if not lines:
        raise _CannotError
    place, what = draw.randrange(len(lines)), draw.random()
    if what < 0.2:
        lines.insert(place, lines[draw.randrange(len(lines))])
    elif what < 0.4:
        del lines[place]
    elif what < 0.5:
        draw.shuffle(lines)
    else:
        changed = _changed_tree(json.loads(lines[place]), draw)
        lines[place] = json.dumps(changed).encode("utf-8", "surrogatepass")
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def _yaml(path: Path, outside: Path, draw: random.Random) -> None:
    changed = _changed_tree(yaml.safe_load(path.read_text(encoding="utf-8")), draw)
    path.write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8", errors="replace")


def _aliases(path: Path, outside: Path, draw: random.Random) -> None:
    depth = draw.choice((2, 5, 8))
    lines = ["- &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"- &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, depth + 1)]
    text = path.read_text(encoding="utf-8")
    key = draw.choice(("model", "data", "zz", "release", "evaluation"))
    path.write_text(text + f"{key}:\n" + "\n".join(f"  {line}" for line in lines) + "\n", encoding="utf-8")


def _toml(path: Path, outside: Path, draw: random.Random) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    places = [place for place, line in enumerate(lines) if re.match(r'^[\w"./-]+ = ', line)]
    if not places:
        raise _CannotError
    place = draw.choice(places)
    key = lines[place].partition(" = ")[0]
    value = _hostile(draw)
    words = "\n" if value is None or isinstance(value, dict) else json.dumps(value)
    what = draw.random()
    if what < 0.1:
        lines.insert(place, lines[place])
    elif what < 0.2:
        del lines[place]
    elif what < 0.3:
        lines[place] = f"{draw.choice((json.dumps(draw.choice(WORDS)), 'extra', '[x]'))} = {words}"
    else:
        lines[place] = f"{key} = {words}"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="replace")


def _parts(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    if len(data) < 8:
        raise _CannotError
    size = struct.unpack("<Q", data[:8])[0]
    if size > len(data) - 8:
        raise _CannotError
    header = json.loads(data[8 : 8 + size])
    if not isinstance(header, dict) or not header:
        raise _CannotError
    return header, data[8 + size :]


def _written(path: Path, text: str, body: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(text.encode())) + text.encode() + body)


def _header(path: Path, outside: Path, draw: random.Random) -> None:
    header, body = _parts(path)
    name = draw.choice(sorted(header))
    entry, what = header[name], draw.random()
    if what < 0.2:
        entry["dtype"] = draw.choice(DTYPES)
    elif what < 0.4:
        entry["shape"] = [draw.choice((size, draw.choice(SIZES))) for size in entry["shape"]] or [draw.choice(SIZES)]
    elif what < 0.5:
        entry["shape"] = draw.choice(([2**32, 2**32], [10**12, 0], [2**63, 2], [], [1] * 1000))
    elif what < 0.6:
        entry["data_offsets"] = [draw.choice((0, 8, len(body), 2**63, -8)), draw.choice((0, len(body), 2**64 - 1))]
    elif what < 0.7:
        header[draw.choice((f"{name}2", "__metadata__", "__round", "served", "own.items"))] = entry
    elif what < 0.8:
        del header[name]
    elif what < 0.9:
        header[draw.choice((f"{name}x", "items", "weights", ""))] = header.pop(name)
    else:
        text = json.dumps(header)
        return _written(path, text[:-1] + "," + json.dumps({name: entry})[1:], body)
    return _written(path, json.dumps(header), body)


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save

    path.write_bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def _arrays(path: Path, outside: Path, draw: random.Random) -> None:
    """Whole arrays of other shapes, types or values."""
    try:
        arrays = load_arrays(path)
    except Exception as error:
        raise _CannotError from error
    if not arrays:
        raise _CannotError
    name = draw.choice(sorted(arrays))
    array, what = arrays[name], draw.random()
    if what < 0.35 and array.size:
        flat = array.reshape(-1)
        place = draw.randrange(flat.size) if draw.random() < 0.7 else slice(None)
        values = (np.nan, np.inf, 1e38, -1.0) if array.dtype.kind == "f" else (2**30, -2, -(2**31), 40, 127, 0)
        if array.dtype.kind == "b":
            flat.view(np.uint8)[place] = draw.choice((2, 255))
        else:
            with np.errstate(all="ignore"):
                flat[place] = np.array(draw.choice(values)).astype(array.dtype)
    elif what < 0.5:
        arrays[name] = array[: draw.choice((0, 1))] if array.ndim else array[None]
    elif what < 0.6 and array.ndim:
        arrays[name] = np.concatenate([array, array], axis=draw.randrange(array.ndim))
    elif what < 0.7:
        arrays[name] = array.reshape(-1) if array.ndim > 1 else array[..., None]
    elif what < 0.8:
        with np.errstate(all="ignore"):
            arrays[name] = array.astype(draw.choice(("float64", "float32", "int32", "int64", "uint8", "bool")))
    elif what < 0.9:
        del arrays[name]
    else:
        arrays[draw.choice(("extra", "served", "factors", "sum.gram", "own.items", f"{name}.items"))] = array
    _save(path, arrays)


Change = Callable[[Path, Path, random.Random], None]
_ANY: list[Change] = [
    _flip, _flip, _truncate, _double, _insert, _remove, _rename, _link, _aside, _link_folder, _pipe, _folder, _swap,
]  # fmt: skip
_CHANGES: dict[str, list[Change]] = {
    ".json": [_json, _json, _json, _flip],
    ".jsonl": [_lines, _lines, _lines, _flip],
    ".yaml": [_yaml, _yaml, _yaml, _aliases],
    ".toml": [_toml, _toml, _toml, _flip],
    ".safetensors": [_header, _arrays, _arrays, _arrays],
}


def _mend(folder: Path) -> None:
    """Make digests fit again: of plan and arrays in `model.json`, of checkpoints in the ledger, and its roots."""
    with contextlib.suppress(Exception):
        path = folder / "model" / "model.json"
        said = json.loads(read_file(path))
        said["shared"] = hashlib.sha256(read_file(folder / "model" / "shared.safetensors")).hexdigest()
        with contextlib.suppress(Exception):
            read_file(folder / "plan.yaml")
            said["plan"] = Plan.read(folder / "plan.yaml").digest
        path.write_text(json.dumps(said))
    with contextlib.suppress(Exception):
        path, tree, lines = folder / "ledger.jsonl", Tree(), []
        for text in read_file(path).decode().splitlines():
            line = json.loads(text)
            if isinstance(line, dict):
                line.pop("root", None)
                kept = folder / "checkpoint" / f"round-{line['round']:06d}.safetensors" if "round" in line else None
                if kept is not None and kept.is_file():
                    line["checkpoint"] = hashlib.sha256(read_file(kept)).hexdigest()
                elif kept is not None and not any((folder / "checkpoint").glob("round-*")):  # the run has ended
                    with contextlib.suppress(Exception):
                        line["checkpoint"] = arrays_digest(packed(ended_state(folder, line["round"])))
            lines.append(rooted_line(json.dumps(line, separators=(",", ":")), tree))
        path.write_text("".join(f"{line}\n" for line in lines))
