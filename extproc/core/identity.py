"""Who calls: what a gateway key or a token says of its holder."""

from __future__ import annotations

import msgspec


class Caller(msgspec.Struct, frozen=True):
    """The holder of a credential. `key` is the key's name, never its secret; `routes` None: every route; `expires`
    and `since` in ms since the epoch (0: not limited)."""

    org: str = "default"
    team: str = "default"
    project: str = ""
    user: str = ""
    key: str = ""
    routes: tuple[str, ...] | None = None
    since: int = 0
    expires: int = 0

    def valid(self, now: int) -> bool:
        """Whether the credential is in force at this moment (ms since the epoch)."""
        return self.since <= now and (self.expires == 0 or now < self.expires)


ANYBODY = Caller()
"""Whoever reaches a gateway that asks for no key."""
