"""What a node may be called: by its owner, by the coordinator that invites it, and in NVFlare's certificates."""

from __future__ import annotations

import re

from fedrec.errors import InputError

__all__ = ["check_node_name"]

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_TAKEN = ("server", "fedrec-coordinator")


def check_node_name(name: str) -> None:
    """Check the name of a node.

    Raises:
        InputError: if it is none, or the coordinator's side has it in NVFlare.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"node {name!r}: a name has small letters, digits and hyphens, 63 at most")
    if name in _TAKEN:
        raise InputError(f"node {name!r}: the coordinator's server has this name; choose another")
