"""Encoders of texts: transformers, and tables of token vectors, from folders of this machine.

A text becomes a vector of length 1. That of a transformer is the mean of its last layer over the tokens, or the first
token's where the folder says so, as folders of sentence-transformers do. That of a table is the mean of the vectors of
the tokens. One thread does the work, in batches that depend on the texts alone, so that equal texts, folders and
machines give equal bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedrec.errors import InputError
from fedrec.language.folders import ModelFolder, install_hint, offline, one_thread, transformers_library
from fedrec.progress import followed

__all__ = [
    "LONGEST",
    "Tokens",
    "batches_by_length",
    "encoded",
    "padded",
    "pooled_by",
    "tokenizer_of",
    "tokens_of",
    "transformer_of",
]

_BATCH = 32
LONGEST = 256
"""Tokens of a text that are read."""

Tokens = list[int]


def encoded(folder: ModelFolder, texts: Sequence[str]) -> np.ndarray:
    """The vectors of texts: [texts, width] float32 of length 1; zeros for a text without tokens.

    Raises:
        InputError: if a library is missing, or the folder does not hold an encoder.

    Example:
        >>> from fedrec.language.folders import model_folder
        >>> encoded(model_folder("/models/all-MiniLM-L6-v2"), ["Heat (1995)"]).shape  # doctest: +SKIP
        (1, 384)
    """
    tokens = tokens_of(folder, texts)
    table = _token_vectors(folder) if folder.config is None else None
    vectors = _by_transformer(folder, tokens) if table is None else _by_table(folder, table, tokens)
    lengths = np.sqrt(np.sum(vectors.astype(np.float64) ** 2, axis=1, keepdims=True))
    if not np.isfinite(lengths).all():
        broken = texts[int(np.argmin(np.isfinite(lengths)))]
        raise InputError(f"model {folder.name}: the vector of {broken!r} is not finite")
    return np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths > 0).astype(np.float32)


def tokenizer_of(folder: ModelFolder) -> Any:
    """The tokenizer of a folder, of the library `tokenizers`, without padding.

    Raises:
        InputError: if the library is missing, or the file is not a tokenizer.
    """
    offline()
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise install_hint(error) from None
    try:
        tokenizer = Tokenizer.from_file(str(folder.tokenizer))
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"{folder.tokenizer} is not a tokenizer: {error}") from None
    tokenizer.no_padding()
    return tokenizer


def transformer_of(folder: ModelFolder) -> Any:
    """The transformer of a folder, as a torch module in float32 that is not trained.

    Raises:
        InputError: if a library is missing, or the folder holds no transformer that reads text.
    """
    transformers = transformers_library()
    import torch

    try:
        model = transformers.AutoModel.from_pretrained(
            str(folder.path), local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except Exception as error:  # whatever the code of an architecture raises
        said = str(error).strip().partition("\n")[0]
        raise InputError(
            f"model {folder.name}: the transformer in {folder.path} cannot be made: {type(error).__name__}: {said}"
        ) from None
    if not hasattr(model, "get_input_embeddings") or "vision" in str(folder.settings.get("model_type")):
        raise InputError(f"model {folder.name}: {folder.settings['model_type']!r} does not read texts")
    return model.eval()


def pooled_by(folder: ModelFolder, model: Any, ids: Any, mask: Any) -> Any:
    """Vectors of texts that are tokens already [texts, width], a torch tensor.

    Args:
        folder: which says how to pool.
        model: from `transformer_of`.
        ids, mask: tokens, and which of them count [texts, longest], torch tensors.
    """
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    if _reads_first_token(folder):
        return states[:, 0]
    weights = mask[:, :, None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def tokens_of(folder: ModelFolder, texts: Sequence[str]) -> list[Tokens]:
    """Tokens of each text, at most as many as are read.

    Raises:
        InputError: if a library is missing, or the folder holds no tokenizer for it.
    """
    if folder.tokenizer is None:
        raise InputError(f"model {folder.name}: GGUF files hold causal models; an encoder needs config.json")
    tokenizer = tokenizer_of(folder)
    tokenizer.enable_truncation(min(LONGEST, int(folder.settings.get("max_position_embeddings", LONGEST))))
    found = tokenizer.encode_batch(list(texts), add_special_tokens=folder.config is not None)
    return [list(text.ids) for text in found]


def _token_vectors(folder: ModelFolder) -> np.ndarray:
    """The table of token vectors [tokens, width] of a folder without a transformer."""
    from safetensors import SafetensorError, safe_open

    path = folder.weights[0]
    try:
        with safe_open(path, framework="numpy") as file:
            tables = [name for name in file.keys() if len(file.get_slice(name).get_shape()) == 2]  # noqa: SIM118
            if len(tables) != 1:
                raise InputError(
                    f"model {folder.name}: {path.name} has {len(tables)} tables; without a config.json it must have "
                    "one, of token vectors"
                )
            return np.asarray(file.get_tensor(tables[0]), dtype=np.float32)
    except (SafetensorError, OSError, TypeError) as error:
        raise InputError(f"{path} cannot be read as safetensors: {error}") from None


def _by_table(folder: ModelFolder, table: np.ndarray, tokens: Sequence[Tokens]) -> np.ndarray:
    """Means of token vectors [texts, width] float64."""
    largest = max((max(text, default=-1) for text in tokens), default=-1)
    if largest >= len(table):
        raise InputError(
            f"model {folder.name}: the tokenizer knows token {largest}, but there are {len(table)} token vectors; the "
            "two files do not belong together"
        )
    vectors = np.zeros((len(tokens), table.shape[1]))
    for place, text in enumerate(tokens):
        if text:
            vectors[place] = table[text].astype(np.float64).mean(axis=0)
    return vectors


def _by_transformer(folder: ModelFolder, tokens: Sequence[Tokens]) -> np.ndarray:
    """Pooled states of the last layer [texts, width] float32, in batches of texts of about one length."""
    model = transformer_of(folder)
    import torch

    vectors: np.ndarray | None = None
    with one_thread(), torch.no_grad():
        for batch in followed(batches_by_length(tokens), len(tokens), len):
            ids, mask = padded([tokens[place] for place in batch])
            rows = pooled_by(folder, model, torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
            vectors = np.zeros((len(tokens), rows.shape[1]), dtype=np.float32) if vectors is None else vectors
            vectors[batch] = rows
    return np.zeros((0, 1), dtype=np.float32) if vectors is None else vectors


def batches_by_length(tokens: Sequence[Tokens]) -> list[list[int]]:
    """Places of texts in batches of about one length, which depend on the texts alone.

    >>> batches_by_length([[5, 6], [7], [5]])
    [[2, 1, 0]]
    """
    order = sorted(range(len(tokens)), key=lambda place: (len(tokens[place]), tokens[place]))
    return [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]


def padded(tokens: Sequence[Tokens]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of texts side by side, and which of them count: two arrays [texts, longest] int64.

    >>> [part.tolist() for part in padded([[5, 6], [7]])]
    [[[5, 6], [7, 0]], [[1, 1], [1, 0]]]
    """
    longest = max([1, *map(len, tokens)])
    ids, mask = np.zeros((2, len(tokens), longest), dtype=np.int64)
    for place, text in enumerate(tokens):
        ids[place, : len(text)], mask[place, : len(text)] = text, 1
    return ids, mask


def _reads_first_token(folder: ModelFolder) -> bool:
    """Whether the vector of a text is that of its first token."""
    for path in folder.others:
        if path.parent.name == "1_Pooling":
            told = ModelFolder(folder.name, path.parent, (), None, path).settings
            if told.get("pooling_mode_cls_token"):
                return True
            if not told.get("pooling_mode_mean_tokens", True):
                raise InputError(f"{path}: pooling is neither by mean nor by first token; no other is known")
    return False
