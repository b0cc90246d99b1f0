"""Names that a node may have, in its configuration, at the coordinator and in NVFlare's certificates."""

from __future__ import annotations

import re

from fedrec.errors import InputError

__all__ = ["check_node_name"]

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_TAKEN = ("server", "fedrec-coordinator")


def check_node_name(name: str) -> None:
    """Check the name of a node.

    Raises:
        InputError: if the name has other characters, is too long, or is reserved for the coordinator.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"node {name!r}: use at most 63 lower-case letters, digits and hyphens")
    if name in _TAKEN:
        raise InputError(f"node {name!r}: this name is reserved for the coordinator; choose another name")
