"""Low-rank changes of an encoder's projections (Hu et al. 2022, "LoRA: Low-rank adaptation of large language models").

A projection W of the attention becomes W + (alpha / rank) B A; W stays as the folder has it. All factors stand in one
array of float32: those of each projection in the order of the module, A before B. One thread does the work, in batches
that depend on the texts alone, so that equal factors, texts, folders and machines give equal bits.
"""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn import functional

from fedrec.errors import InputError
from fedrec.language.encoders import Tokens, batches_by_length, padded, pooled_by, tokens_of, transformer_of
from fedrec.language.folders import ModelFolder, one_thread

__all__ = ["LoraEncoder", "Projection"]

_USUAL = (("query", "value"), ("query_proj", "value_proj"), ("q_proj", "v_proj"), ("q_lin", "v_lin"), ("q", "v"))
"""What queries and values are called in encoders of several families."""


class Projection(nn.Module):
    """x ↦ W x + (alpha / rank) B A x.

    Args:
        whole: W, which stays.
        rank: rows of A, columns of B.
        scale: alpha / rank.
    """

    def __init__(self, whole: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.whole, self.scale = whole, scale
        where = whole.weight.device
        self.down = nn.Parameter(torch.zeros(rank, whole.in_features, device=where))
        self.up = nn.Parameter(torch.zeros(whole.out_features, rank, device=where))

    def forward(self, states: Tensor) -> Tensor:
        """States […, in] projected: […, out]."""
        low = functional.linear(functional.linear(states, self.down), self.up)
        projected: Tensor = self.whole(states) + self.scale * low
        return projected


@dataclass(frozen=True, eq=False)
class LoraEncoder:
    """An encoder of texts whose projections have low-rank changes.

    Args:
        folder: that it came from.
        module: of torch, with `Projection` in place of the projections.
        projections: by their names in the module.
        rank: of the changes.
        alpha: what changes are multiplied by, times the rank.
    """

    folder: ModelFolder
    module: Any
    projections: dict[str, Projection]
    rank: int
    alpha: float

    @classmethod
    def read(
        cls,
        folder: ModelFolder,
        rank: int,
        alpha: float,
        names: Sequence[str] = (),
        device: str = "cpu",
        checkpointing: bool = False,
    ) -> LoraEncoder:
        """Read the transformer in a folder.

        Args:
            folder: of a transformer that reads text.
            rank: of the changes.
            alpha: what changes are multiplied by, times the rank.
            names: last parts of the names of the projections; without any, queries and values of the attention.
            device: of torch.
            checkpointing: whether layers are worked out again for gradients, which takes less memory and more time.

        Raises:
            InputError: if a library is missing, the folder holds no transformer that reads text, it has no such
                projections, or its layers cannot be worked out again.
        """
        if folder.config is None:
            raise InputError(
                f"model {folder.name}: LoRA changes the projections of a transformer, and {folder.path} has none; give "
                "a folder with config.json"
            )
        module = transformer_of(folder).to(device).requires_grad_(False)
        linear = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
        last = {name.rpartition(".")[2] for name in linear}
        chosen = tuple(names) or next((pair for pair in _USUAL if last.issuperset(pair)), ())
        unknown = [name for name in chosen if name not in last]
        if unknown or not chosen:
            told = f"has no projections {unknown[0]!r}" if unknown else "has none of the usual queries and values"
            raise InputError(
                f"model {folder.name}: {folder.settings.get('model_type')!r} {told}; its projections are "
                f"{', '.join(sorted(last)) or 'of another kind than torch.nn.Linear'}"
            )
        projections = {}
        for name, part in linear.items():
            home, _, own = name.rpartition(".")
            if own in chosen:
                projections[name] = Projection(part, rank, alpha / rank)
                setattr(module.get_submodule(home), own, projections[name])
        if checkpointing:
            if not module.supports_gradient_checkpointing:
                raise InputError(
                    f"model {folder.name}: layers of {folder.settings.get('model_type')!r} cannot be worked out again; "
                    "leave checkpointing out"
                )
            _checkpoint(module)
        return cls(folder, module, projections, rank, alpha)

    @property
    def size(self) -> int:
        """Numbers in all factors."""
        return sum(factor.numel() for factor in self._factors)

    def first(self, rng: np.random.Generator) -> np.ndarray:
        """Factors before training [size] float32: A at random, B of zeros, which change nothing."""
        parts = []
        for projection in self.projections.values():
            bound = projection.whole.in_features**-0.5
            parts.append(rng.uniform(-bound, bound, projection.down.numel()))
            parts.append(np.zeros(projection.up.numel()))
        return np.concatenate(parts).astype(np.float32)

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens of each text, at most as many as the encoder reads."""
        return tokens_of(self.folder, texts)

    def vectors(self, factors: np.ndarray, tokens: Sequence[Tokens], centre: np.ndarray) -> np.ndarray:
        """Vectors of texts less a centre: [texts, width] float32 of length 1.

        Args:
            factors: [size] float32.
            tokens: of each text, one at least.
            centre: [width], taken off vectors of length 1.
        """
        out = np.zeros((len(tokens), len(centre)), dtype=np.float32)
        with torch.no_grad():
            for batch, rows in self._batches(factors, tokens, centre):
                out[batch] = rows.cpu().numpy()
        return out

    def gradient(
        self, factors: np.ndarray, tokens: Sequence[Tokens], centre: np.ndarray, pulls: np.ndarray
    ) -> np.ndarray:
        """What a gradient by the vectors of texts is by the factors: [size] float64, linear in `pulls`.

        Args:
            factors: [size] float32.
            tokens: of each text, one at least.
            centre: [width], taken off vectors of length 1.
            pulls: gradient by the vectors [texts, width].
        """
        sums = np.zeros(self.size)
        wanted = torch.from_numpy(pulls.astype(np.float32))
        for batch, rows in self._batches(factors, tokens, centre):
            told = (rows * wanted[batch].to(rows.device)).sum()
            found = torch.autograd.grad(told, self._factors)
            sums += np.concatenate([part.cpu().numpy().ravel() for part in found])
        return sums

    def save(self, factors: np.ndarray, folder: Path) -> None:
        """Write the factors as peft does: `adapter_config.json` and `adapter_model.safetensors`.

        Args:
            factors: [size] float32.
            folder: is made.
        """
        folder.mkdir(parents=True)
        config = {
            "peft_type": "LORA",
            "task_type": "FEATURE_EXTRACTION",
            "base_model_name_or_path": str(self.folder.path),
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "target_modules": sorted({name.rpartition(".")[2] for name in self.projections}),
        }
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tables = {}
        self._fill(factors)
        for name, projection in self.projections.items():
            for letter, factor in (("A", projection.down), ("B", projection.up)):
                tables[f"base_model.model.{name}.lora_{letter}.weight"] = factor.detach().cpu().numpy()
        save_file(tables, folder / "adapter_model.safetensors")

    def save_merged(self, factors: np.ndarray, folder: Path) -> None:
        """Write the whole encoder with the changes in its weights, as a folder like the one that it came from.

        Args:
            factors: [size] float32.
            folder: is made.
        """
        folder.mkdir(parents=True)
        self._fill(factors)
        merged = copy.deepcopy(self.module)
        with torch.no_grad():
            for name in self.projections:
                home, _, own = name.rpartition(".")
                part = merged.get_submodule(name)
                part.whole.weight += part.scale * part.up @ part.down
                setattr(merged.get_submodule(home), own, part.whole)
        with redirect_stderr(io.StringIO()):  # bars of progress, which nothing else turns off
            merged.save_pretrained(folder)
        assert self.folder.tokenizer is not None, "an encoder was read with its tokenizer"
        shutil.copy(self.folder.tokenizer, folder / "tokenizer.json")
        for path in self.folder.others:
            copied = folder / path.relative_to(self.folder.path)
            copied.parent.mkdir(exist_ok=True)
            shutil.copy(path, copied)

    @property
    def _factors(self) -> list[nn.Parameter]:
        return [factor for projection in self.projections.values() for factor in (projection.down, projection.up)]

    def _fill(self, factors: np.ndarray) -> None:
        parts = torch.split(torch.from_numpy(np.array(factors)), [factor.numel() for factor in self._factors])
        with torch.no_grad():
            for factor, part in zip(self._factors, parts, strict=True):
                factor.copy_(part.reshape(factor.shape))

    def _batches(
        self, factors: np.ndarray, tokens: Sequence[Tokens], centre: np.ndarray
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Places of texts, and their vectors [some, width], a batch at a time."""
        self._fill(factors)
        where = self._factors[0].device
        taken = torch.from_numpy(centre.astype(np.float32)).to(where)
        with one_thread():
            for batch in batches_by_length(tokens):
                ids, mask = (torch.from_numpy(part).to(where) for part in padded([tokens[place] for place in batch]))
                raw = functional.normalize(pooled_by(self.folder, self.module, ids, mask), dim=1)
                yield batch, functional.normalize(raw - taken, dim=1)


def _checkpoint(module: Any) -> None:
    """Have layers worked out again for gradients, which transformers do in training only; nothing is dropped."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name, value in vars(part).items():
            if "dropout" in name and isinstance(value, float):
                setattr(part, name, 0.0)
    module.activation_checkpointing_enable()
    module.train()
