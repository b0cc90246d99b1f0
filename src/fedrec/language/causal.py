"""Causal models of language from folders of this machine: how likely a text is after another. Nothing is generated."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedrec.errors import InputError
from fedrec.language.encoders import padded, tokenizer_of
from fedrec.language.folders import ModelFolder, model_folder, one_thread, transformers_library

__all__ = ["CausalModel"]

_LONGEST_PROMPT, _LONGEST_TEXT = 512, 32
"""Tokens that are read of a prompt, the last, and of a text, the first."""


@dataclass(frozen=True, eq=False)
class CausalModel:
    """A causal model of language, in float32 on the processor.

    Args:
        folder: that it came from.
        module: of torch.
        tokenizer: of the library `tokenizers`, or of transformers for GGUF.
        first: the token that texts begin with, if the model has one.
    """

    folder: ModelFolder
    module: Any
    tokenizer: Any
    first: int | None

    @classmethod
    def read(cls, name: str) -> CausalModel:
        """Read the model in a folder, or in an installed package that brings one.

        Raises:
            InputError: if a library is missing, or the folder holds no causal model.
        """
        folder = model_folder(name)
        transformers = transformers_library()
        import torch

        if folder.tokenizer is not None and folder.config is None:
            raise InputError(f"model {name}: a table of token vectors encodes texts, and cannot tell which come next")
        gguf = {} if folder.config is not None else {"gguf_file": folder.weights[0].name}
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, **gguf}
        try:
            with redirect_stderr(io.StringIO()):  # bars of progress, which nothing else turns off
                module = transformers.AutoModelForCausalLM.from_pretrained(
                    str(folder.path), dtype=torch.float32, **local, **({} if gguf else {"use_safetensors": True})
                )
                tokens = transformers.AutoTokenizer.from_pretrained(str(folder.path), **local) if gguf else None
        except Exception as error:  # whatever the code of an architecture raises
            said = str(error).strip().partition("\n")[0]
            raise InputError(
                f"model {name}: there is no causal model in {folder.path}: {type(error).__name__}: {said}"
            ) from None
        first = getattr(module.config, "bos_token_id", None)
        return cls(folder, module.eval(), tokens or tokenizer_of(folder), first if isinstance(first, int) else None)

    def log_likelihoods(self, prompt: str, texts: Sequence[str]) -> np.ndarray:
        """The mean log-probability of the tokens of each text after the prompt [texts] float64; 0 for an empty text."""
        import torch

        before = self._tokens(prompt)[-_LONGEST_PROMPT:]
        if self.first is not None:
            before = [self.first, *before]
        after = [self._tokens(text)[:_LONGEST_TEXT] for text in texts]
        ids, mask = (torch.from_numpy(part) for part in padded(after))
        with one_thread(), torch.no_grad():
            read = self.module(input_ids=torch.tensor([before]), use_cache=True)
            kept = read.cache
            kept.batch_repeat_interleave(len(after))
            whole = torch.cat([torch.ones((len(after), len(before)), dtype=mask.dtype), mask], 1)
            told = self.module(input_ids=ids, attention_mask=whole, cache=kept).logits[:, :-1]
            first = read.logits[:, -1:].expand(len(after), 1, -1)
            logits = torch.log_softmax(torch.cat([first, told], 1), 2)
            found = logits.gather(2, ids[:, :, None])[:, :, 0] * mask
        means: np.ndarray = found.sum(1).double().numpy() / np.maximum(mask.sum(1).numpy(), 1)
        return means

    def _tokens(self, text: str) -> list[int]:
        told = self.tokenizer.encode(text, add_special_tokens=False)
        return list(getattr(told, "ids", told))
