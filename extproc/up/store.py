"""The store that a gateway was told to use: asked before it serves whether money can rest on it."""

from __future__ import annotations

import asyncio

from extproc.config import GatewayConfig
from extproc.ledger.access import sentence, verify
from extproc.ledger.address import AddressRefused, shown
from extproc.ledger.base import LedgerMisconfigured, LedgerUnavailable
from extproc.ledger.link import StoreRefused

PATIENCE = 15.0
"""Seconds that all questions together may take."""
AGAIN = 5.0
"""Seconds between two tries to reach a store that was away at the start."""
URL = "EXTPROC_REDIS_URL"
"""Where workers find the address: everybody on the machine may read a command line."""


class StoreUnusable(Exception):  # noqa: N818
    """The store, or its address, is not one that money can rest on; the text is one line, without the password."""


class StoreAway(Exception):  # noqa: N818
    """The store does not answer; the text is one line, without the password."""


async def ask(url: str, config: GatewayConfig) -> list[str]:
    """Ask a store whether this gateway can use it; return warnings, one line each.

    Raises StoreUnusable where time heals nothing, StoreAway where it may; within `PATIENCE` seconds.
    """
    place = shown(url)
    try:
        async with asyncio.timeout(PATIENCE):
            return [f"the store at {place}: {text}" for text in await verify(url, config.auth.org,
                                                                             wait=config.money.wait)]
    except AddressRefused as error:
        raise StoreUnusable(f"the store's address cannot be used: {error}") from error
    except StoreRefused as error:
        raise StoreUnusable(_line(sentence(error, place))) from error
    except LedgerMisconfigured as error:
        raise StoreUnusable(_line(f"the store at {place} cannot be used: {error}")) from error
    except (LedgerUnavailable, TimeoutError) as error:
        reason = _line(str(error)) or f"no answer within {PATIENCE:.0f} s"
        raise StoreAway(f"the store at {place} does not answer ({reason})") from error


def _line(text: str) -> str:
    return " ".join(text.split())
