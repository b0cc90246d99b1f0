"""Names of environment variables with which mail slots find their process; this module does not import NVFlare."""

from __future__ import annotations

__all__ = ["NODE_MOST", "NODE_SOCKET", "POST_SOCKET"]

NODE_SOCKET = "FEDREC_NODE_SOCKET"
NODE_MOST = "FEDREC_NODE_MOST_BYTES"
"""Maximum bytes of frames that the mail slot of a node may store."""
POST_SOCKET = "FEDREC_POST_SOCKET"
