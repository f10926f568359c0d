"""Why a gateway does not start."""

from __future__ import annotations


class StartError(Exception):
    """The gateway cannot start; the text says what to do."""
