"""Names of devices, for those who write them down without torch."""

from __future__ import annotations

__all__ = ["DEVICE_NAMES", "VARIABLE"]

VARIABLE = "FEDREC_DEVICE"
"""Environment variable that names the device on which modules run: it belongs to a machine and not to a plan."""
DEVICE_NAMES = r"cpu|cuda(:\d{1,3})?"
"""What a name looks like."""
