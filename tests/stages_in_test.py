"""Plans of federations that are small enough to be staged for every attack."""

from __future__ import annotations

from typing import Any

from fedrec.federation.plan import Plan

DATA = "synthetic:users=240,items=60,interactions_per_user=12,seed=3"
MODELS: dict[str, dict[str, Any]] = {"mf": {"name": "mf", "embedding_size": 4, "rounds": 2}, "ease": {"name": "ease"}}


def small_plan(model: str, noise: str | None = None, **changes: Any) -> Plan:
    settings: dict[str, Any] = {"data": {"source": DATA}, "model": MODELS[model], "seed": 5}
    if noise is not None:
        settings["privacy"] = {"epsilon": 2.0, "delta": 1e-4, "users": 240, "noise": noise}
    return Plan.make(settings | changes)
