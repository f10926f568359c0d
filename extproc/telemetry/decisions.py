"""Metrics of routing: what decided requests, and how the backends are."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import Counter, Gauge

DECISIONS = Counter("extproc_decisions", "Requests decided, by chain and by what decided", ["route", "by"])
STATE = Gauge("extproc_backend_state", "0 up, 1 probing, 2 cooling, 3 open", ["backend"],
              multiprocess_mode="mostrecent")
SPENT = Gauge("extproc_aim_spent_usd", "Spent today at the complex chain, where the aim is dollars a day", ["org"],
              multiprocess_mode="mostrecent")
_STATES = ("up", "probing", "cooling", "open")
_BY = {"rule": "rule", "pinned": "pin", "latency": "class", "cost": "class", "session": "session", "simple": "value",
       "complex": "value", "explored": "value"}

_decided = lru_cache(maxsize=1024)(DECISIONS.labels)


def decided(route: str, reason: str, *, listed: bool) -> None:
    """Count a decision by the first word of its reason; `listed`: its route is a chain, not a client's own text."""
    first = reason.partition(" ")[0].rstrip(":")
    _decided(route if listed else "other", _BY.get(first, "other")).inc()


def state(backend: str, how: str) -> None:
    """Set how a backend is."""
    STATE.labels(backend).set(_STATES.index(how))


def spent(org: str, usd: float) -> None:
    """Set what an org spent today under its aim."""
    SPENT.labels(org).set(usd)
