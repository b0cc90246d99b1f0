"""Variables by which mail slots find the process they belong to; they say nothing of NVFlare, nor need it."""

from __future__ import annotations

__all__ = ["NODE_MOST", "NODE_SOCKET", "POST_SOCKET"]

NODE_SOCKET = "FEDREC_NODE_SOCKET"
NODE_MOST = "FEDREC_NODE_MOST_BYTES"
"""How many bytes of frames its slot may hold for a node."""
POST_SOCKET = "FEDREC_POST_SOCKET"
