"""Folders with a model of language: which of their files count, what is refused, and the digest of a folder.

A folder is named by its path, or by an installed package that brings it. Weights are safetensors (or GGUF, for causal
models); pickled weights and folders that bring code of their own are refused. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedrec.documents import DocumentError, parse_json, read_file
from fedrec.errors import InputError

__all__ = ["ModelFolder", "install_hint", "model_folder", "offline", "one_thread", "transformers_library"]

_MOST_FILES, _DEPTH = 4096, 4
_MOST_CONFIG = 1 << 24
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
_MODULES = ("Transformer", "Pooling", "Normalize")
"""Steps of a sentence encoder that are known here."""
_CHUNK = 1 << 22


@dataclass(frozen=True)
class ModelFolder:
    """The files of a model of language.

    Args:
        name: what the folder was asked for by.
        path: where its main files lie.
        weights: safetensors files, or one GGUF file, in the order of their names.
        tokenizer: in the format of the library `tokenizers`; `None` beside GGUF, which brings its own.
        config: `config.json` of a transformer; `None` for a table of token vectors, and beside GGUF.
        others: further files that decide what the model gives.
    """

    name: str
    path: Path
    weights: tuple[Path, ...]
    tokenizer: Path | None = None
    config: Path | None = None
    others: tuple[Path, ...] = ()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What `config.json` says; empty without one.

        Raises:
            InputError: if it is not a JSON object.
        """
        return {} if self.config is None else _object(self.config)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names and bytes of all files that count: equal for equal models, wherever they lie."""
        files = [self.config, self.tokenizer, *self.others, *self.weights]
        state = hashlib.sha256(b"fedrec language model 1")
        for path in files:
            if path is not None:
                stat = path.stat()
                state.update(f" {path.name} {_file_digest(str(path), stat.st_size, stat.st_mtime_ns)}".encode())
        return state.hexdigest()


def model_folder(name: str) -> ModelFolder:
    """The model in a folder, or in an installed package; none of the package's code runs.

    Args:
        name: path of a folder, or name of a package.

    Raises:
        InputError: if there is no such folder or package, if it lacks a file, has pickled weights only, or brings code.
    """
    root = _root(name)
    files = list(_files(root))
    named = {path.name for path in files}
    configs = [path for path in files if path.name == "config.json" and path.parent.name != "1_Pooling"]
    for config in sorted(configs, key=lambda path: (len(path.parts), str(path))):
        weights = tuple(sorted(path for path in files if path.parent == config.parent and _is(path, ".safetensors")))
        if "model_type" in _object(config) and weights and _object(config)["model_type"] != "model2vec":
            return _transformer(name, config, weights, files)
    weights = tuple(sorted(path for path in files if _is(path, ".safetensors")))
    if len(weights) == 1:
        return ModelFolder(name, root, weights, _tokenizer_in(name, files, root))
    models = sorted(path for path in files if _is(path, ".gguf"))
    if len(models) == 1 and not weights:
        return ModelFolder(name, models[0].parent, (models[0],))
    if weights or models:
        found = ", ".join(path.name for path in (*weights, *models)[:5])
        raise InputError(f"model {name}: {root} has several files of weights and no config.json: {found}")
    pickles = sorted(file for file in named if file.endswith(_PICKLES))
    if pickles:
        raise InputError(
            f"model {name}: the weights in {pickles[0]} are pickled, and reading them can run code; convert them to "
            "model.safetensors (save_pretrained of transformers does), and remove the old file"
        )
    raise InputError(
        f"model {name}: {root} has no weights; a folder needs config.json, model.safetensors and tokenizer.json, or "
        "one safetensors file of token vectors and tokenizer.json, or one GGUF file"
    )


def install_hint(error: ImportError) -> InputError:
    """What to do about a library that is missing."""
    return InputError(f"models of language need {error.name}; pip install 'fedrec[text]'")


def transformers_library() -> Any:
    """The library transformers, quiet and kept from the network.

    Raises:
        InputError: if it, or torch, is missing.
    """
    offline()
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise install_hint(error) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch, so that equal inputs give equal bits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def offline() -> None:
    """Keep the libraries from asking the network for anything."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _root(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.isidentifier():
        spec = find_spec(name)  # of a package at the top, so that nothing is imported
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
    raise InputError(
        f"model {name!r}: there is no such folder, and no installed package of this name; give the path of a folder "
        "with config.json, model.safetensors and tokenizer.json"
    )


def _files(root: Path) -> Iterator[Path]:
    """Regular files of a folder and of those in it, a few levels deep."""
    queue, seen = [(root, 0)], 0
    while queue:
        folder, depth = queue.pop(0)
        for path in sorted(folder.iterdir()):
            seen += 1
            if seen > _MOST_FILES:
                raise InputError(f"{root}: more than {_MOST_FILES:,} files; give the folder of the model itself")
            if path.is_dir():
                if depth < _DEPTH and not path.name.startswith((".", "__pycache__")) and not path.is_symlink():
                    queue.append((path, depth + 1))
            elif path.is_file():
                yield path


def _is(path: Path, suffix: str) -> bool:
    return path.name.endswith(suffix) and not path.name.startswith("adapter_")


def _transformer(name: str, config: Path, weights: tuple[Path, ...], files: list[Path]) -> ModelFolder:
    folder = config.parent
    beside = {str(path.relative_to(folder)): path for path in files if path.is_relative_to(folder)}
    for file in ("config.json", "tokenizer_config.json"):
        if file in beside and "auto_map" in _object(beside[file]):
            raise InputError(
                f"model {name}: {file} asks to run code that the folder brings (auto_map); such folders are refused"
            )
    if "modules.json" in beside:
        steps = _json(beside["modules.json"])
        kinds = [str(step.get("type", "")).rpartition(".")[2] for step in steps if isinstance(step, dict)]
        if unknown := [kind for kind in kinds if kind not in _MODULES]:
            raise InputError(
                f"model {name}: modules.json has a step {unknown[0]!r}; known are {', '.join(_MODULES)}. Encode with "
                "a program of yours, and give the vectors (see docs/features.md)"
            )
    others = [beside[file] for file in ("1_Pooling/config.json", "sentence_bert_config.json") if file in beside]
    found = ModelFolder(name, folder, weights, _tokenizer_in(name, [*beside.values()], folder), config, tuple(others))
    if found.settings.get("is_encoder_decoder"):
        raise InputError(
            f"model {name}: {found.settings['model_type']!r} is an encoder with a decoder; use an encoder such as "
            "BERT or MiniLM, or a causal model"
        )
    return found


def _tokenizer_in(name: str, files: list[Path], folder: Path) -> Path:
    """The one file that says how texts become tokens."""
    for path in files:
        if path.name == "tokenizer.json":
            return path
    wholes = [path for path in files if "tokenizer" in path.name and _is(path, ".json") and "model" in _object(path)]
    if len(wholes) != 1:
        raise InputError(f"model {name}: {folder} has no tokenizer.json, the format of the library tokenizers")
    return wholes[0]


def _json(path: Path) -> Any:
    try:
        return parse_json(read_file(path, _MOST_CONFIG))
    except (OSError, DocumentError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _object(path: Path) -> dict[str, Any]:
    found = _json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a JSON object")
    return found


@lru_cache(maxsize=64)
def _file_digest(path: str, size: int, changed: int) -> str:
    """SHA-256 of a file of this size, last changed at this time."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()
