"""Models of language that tests make themselves: a few tokens, random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WORDS = ("crime", "drama", "war", "heat", "ran", "night", "day", "love", "the", "of", *"0123456789")
TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Whitespace"}, {"type": "Digits", "individual_digits": True}],
    },
    "post_processor": None,
    "decoder": None,
    "model": {
        "type": "WordLevel",
        "vocab": {"[UNK]": 0, **{word: place + 1 for place, word in enumerate(WORDS)}},
        "unk_token": "[UNK]",
    },
}


def token_vectors(folder: Path, width: int = 8, seed: int = 0) -> Path:
    """A folder with a table of token vectors."""
    folder.mkdir(parents=True, exist_ok=True)
    table = np.random.default_rng(seed).normal(size=(len(WORDS) + 1, width)).astype(np.float16)
    save_file({"embedding.weight": table}, folder / "vectors.safetensors")
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return folder


def transformer(folder: Path, kind: str = "BertModel", **settings: object) -> Path:
    """A folder with a transformer of two layers, as transformers writes it."""
    import torch
    import transformers

    sizes = {"vocab_size": len(WORDS) + 1, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "max_position_embeddings": 64}
    torch.manual_seed(0)
    made = getattr(transformers, kind)
    made(made.config_class(**sizes, **settings)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return folder
