"""An owner's configuration and a plan that it allows, for tests of what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from fedrec.federation.plan import Plan
from fedrec.owner.config import NodeConfig
from fedrec.record.keys import SigningKey

NAMES = ("coordinator", "shop-a", "shop-b", "shop-c", "eve")
SECRETS = {name: SigningKey(name, name.encode().ljust(32, b"!")) for name in NAMES}
KEYS = {name: str(key.public()) for name, key in SECRETS.items()}
PARTIES = tuple(KEYS[name] for name in ("shop-a", "shop-b", "shop-c"))
HOME = Path("/srv/shop")

SETTINGS: dict[str, Any] = {
    "name": "shop-a",
    "home": "home",
    "data": {"source": "clicks.csv"},
    "policy": {"coordinator": KEYS["coordinator"], "parties": list(PARTIES)},
}
PLAN: dict[str, Any] = {"data": {"source": "elsewhere.csv"}, "model": {"name": "ease"}, "n_max": 4096}
PRIVATE: dict[str, Any] = {"epsilon": 2.0, "delta": 1e-6, "users": 4000}


def changed(settings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings with some keys set, `table__key=value` inside a table."""
    made = copy.deepcopy(settings)
    for name, value in changes.items():
        table, _, key = name.partition("__")
        if key:
            made.setdefault(table, {})[key] = value
        else:
            made[table] = value
    return made


def owned(folder: Path = HOME, **changes: Any) -> NodeConfig:
    """The configuration, changed."""
    return NodeConfig.make(changed(SETTINGS, **changes), folder)


def planned(**changes: Any) -> Plan:
    """The plan, changed."""
    return Plan.make(changed(PLAN, **changes))
