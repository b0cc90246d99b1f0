"""The encoder of item texts that a finished run trained, as a folder for other programs."""

from __future__ import annotations

import shutil
from pathlib import Path

from fedrec.errors import InputError
from fedrec.models.networks.lora import Lora
from fedrec.runs.finished import OpenedRun

__all__ = ["save_encoder"]


def save_encoder(opened: OpenedRun, folder: Path, merged: bool = False) -> int:
    """Write what a run learned about its encoder.

    Args:
        opened: the run.
        folder: to write: `adapter_config.json` and `adapter_model.safetensors`, as peft reads them.
        merged: whether to write the whole encoder with the changes in its weights, as `text:FOLDER` reads it.

    Returns:
        How many numbers the factors are.

    Raises:
        InputError: if the folder exists, the run trained no encoder, or the encoder that it began with is not on this
            machine.
    """
    model = opened.model
    if not isinstance(model, Lora):
        raise InputError(f"a run of {model.name!r} trains no encoder; a run of {Lora.name!r} does")
    if folder.exists():
        raise InputError(f"{folder} exists already; name a folder that does not")
    encoder, factors = model.encoder, opened.trained.state.shared["factors"]
    aside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    (encoder.save_merged if merged else encoder.save)(factors, aside)
    aside.rename(folder)
    return len(factors)
