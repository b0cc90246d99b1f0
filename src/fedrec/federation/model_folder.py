"""The folder of a finished model: its shared arrays, its catalog, and a description with their digests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedrec.data.catalog import Catalog
from fedrec.documents import MOST_SETTINGS, parse_json, read_file
from fedrec.errors import DamagedError, InputError, RunError
from fedrec.federation.agreement import Agreement
from fedrec.federation.fitting import Fitting, naming
from fedrec.federation.plan import Plan
from fedrec.models.base import State
from fedrec.record.durable import map_file, replace_file, save_arrays
from fedrec.record.layout import arrays_in

__all__ = ["load_shared", "save_shared"]

_FORMAT = 1
_MOST_ROUNDS = 1 << 31
"""No run has as many rounds."""


def save_shared(folder: Path, agreement: Agreement, state: State, round: int) -> None:
    """Write a model folder: `shared.safetensors`, `catalog.jsonl` and, last, `model.json` with their digests."""
    plan, model, catalog = agreement.plan, agreement.model, agreement.catalog
    folder.mkdir(parents=True, exist_ok=True)
    digest = save_arrays(folder / "shared.safetensors", state.shared)
    replace_file(folder / "catalog.jsonl", catalog.to_json_lines())
    description = {
        "format": _FORMAT,
        "model": {"name": model.name, **model.model_dump(mode="json")},
        "round": round,
        "items": len(catalog),
        "catalog": catalog.digest,
        "shared": digest,
        "plan": plan.digest,
        "leaky": plan.leaky,
    }
    replace_file(folder / "model.json", json.dumps(description, indent=1).encode() + b"\n")


def load_shared(folder: Path, plan: Plan) -> tuple[Agreement, State, int]:
    """Read a model folder: the agreement that the model was trained under, its shared arrays, the round.

    Raises:
        RunError: if there is none.
        DamagedError: if a file is not what `model.json` says, or `plan` is not the plan of the model.
    """
    description = _description(folder / "model.json")
    if description.get("plan") != plan.digest:
        raise DamagedError(
            f"{folder.parent / 'plan.yaml'} is not the plan that this model was trained with. Restore it, or train anew"
        )
    try:
        file = map_file(folder / "shared.safetensors")
        file.hash_aside()
        shared = arrays_in(file.data, str(folder / "shared.safetensors"))
        text = read_file(folder / "catalog.jsonl")
    except (OSError, ValueError, InputError) as error:
        raise DamagedError(f"{folder} is not whole: {error}") from None
    catalog = Catalog.from_json_lines(text, str(folder / "catalog.jsonl"))
    if catalog.digest != description["catalog"] or len(catalog) != description["items"]:
        raise DamagedError(f"{folder / 'catalog.jsonl'} is not the catalog that model.json describes")
    agreement = Agreement.of(plan, catalog)
    model = agreement.model
    if description["model"] != {"name": model.name, **model.model_dump(mode="json")}:
        raise DamagedError(f"{folder / 'model.json'} describes another model than the plan's")
    try:
        with naming(folder / "shared.safetensors"):
            Fitting(agreement).check_finished(shared)
    finally:
        if file.digest != description["shared"]:
            raise DamagedError(f"{folder / 'shared.safetensors'} is not the one that model.json describes") from None
    file.forget()
    return agreement, State(shared), description["round"]


def _description(path: Path) -> dict[str, Any]:
    """What a `model.json` says, its fields checked."""
    try:
        said = parse_json(read_file(path, MOST_SETTINGS))
    except FileNotFoundError:
        raise RunError(f"{path.parent} holds no finished model (no {path.name}); was the training finished?") from None
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path} is damaged: {error}") from None
    if isinstance(said, dict) and said.get("format") != _FORMAT:
        raise DamagedError(f"{path} has format {said.get('format')!r:.40}; this fedrec reads format {_FORMAT}")
    kinds = {"model": dict, "round": int, "items": int, "catalog": str, "shared": str}
    for key, kind in kinds.items():
        if not isinstance(said, dict) or type(said.get(key)) is not kind:
            raise DamagedError(f"{path} is damaged: {key} is missing or wrong")
    if not -1 <= said["round"] < _MOST_ROUNDS:  # −1 at a node of whose sums none was counted
        raise DamagedError(f"{path} is damaged: round must be from -1 to {_MOST_ROUNDS - 1}")
    return said
