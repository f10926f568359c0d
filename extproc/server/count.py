"""How many workers there are."""

from __future__ import annotations

import os
from typing import Literal

FEWEST, MOST = 2, 8


def workers(wanted: int | Literal["auto"]) -> int:
    """As configured; by itself half the processors, but two at least: one can be killed without a gap."""
    return max(FEWEST, min(MOST, (os.cpu_count() or FEWEST) // 2)) if wanted == "auto" else wanted
