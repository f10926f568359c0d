"""Money in gateway.yaml: what may be done without the store, and where settlements lie meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.config import ConfigError, GatewayConfig, parse

BASE = """
backends: {gpt: {schema: openai, base_url: "http://127.0.0.1:1/v1", location: cloud, api_key: KEY}}
chains: {cloud: [gpt/m], local: [gpt/m]}
"""
BUDGETS = "budgets: [{for: {org: o}, usd: 1, per: day}]\n"
PURSE = "allow: {usd: 5, requests: 1000, for: 10m}"


def config(money: str, budgets: str = BUDGETS) -> GatewayConfig:
    """A configuration with this under `money`."""
    return parse(BASE + budgets + f"money: {{{money}}}\n", "t", Path())


@pytest.mark.parametrize(("money", "budgets", "denies"), [
    ("", BUDGETS, True), ("store_down: deny", BUDGETS, True), (f"store_down: allow, {PURSE}", BUDGETS, False),
    (PURSE, BUDGETS, False), ("", "", False), ("store_down: allow", "", False), ("store_down: deny", "", True),
    (PURSE, "", False),
])
def test_what_is_denied_without_the_store(money: str, budgets: str, denies: bool) -> None:
    """Budgets deny unless a purse allows; without budgets nothing is denied unless it is said."""
    assert config(money, budgets).money.denies(budgets=bool(budgets)) == denies


def test_the_purse() -> None:
    """A purse has dollars, requests and a time."""
    allow = config(PURSE).money.allow
    assert allow is not None
    assert (allow.usd, allow.requests, allow.for_) == (5, 1000, 600)


def test_where_the_spool_is() -> None:
    """The spool has a default folder; another one, or none, is named; its files have a limit."""
    assert (config("").money.spool, config("").money.spool_limit) == (None, 256 << 20)
    assert config("spool: /var/spool/extproc, spool_limit: 1GiB").money.spool == "/var/spool/extproc"
    assert config("spool: off").money.spool == "off"


@pytest.mark.parametrize(("money", "said"), [
    ("store_down: allow", "money.store_down: allow with budgets needs a bound for each worker, such as money.allow: {usd"),
    (f"store_down: deny, {PURSE}", "allow is what store_down: allow permits"),
    (f"spool: off, {PURSE}", "allow needs a spool"),
    ('spool: ""', "spool is a folder, or off"),
    ("spool_limit: 5KB", "spool_limit is 1MiB or more"),
    ("allow: {usd: 5, requests: 1000}", "money.allow.for: is required"),
    ("allow: {usd: -1, requests: 1000, for: 1m}", "money.allow.usd: expected a number of at least 0"),
    ("allow: {usd: 1, requests: 0, for: 1m}", "money.allow.requests: expected a number of at least 1"),
    ("allow: {usd: 1, requests: 1, for: 0s}", "money.allow.for: expected a duration up to 24h"),
    ("allow: {usd: 1, requests: 1, for: 25h}", "money.allow.for: expected a duration up to 24h"),
])
def test_what_does_not_go_together(money: str, said: str) -> None:
    """Each contradiction is one line that says what to do."""
    with pytest.raises(ConfigError) as caught:
        config(money)
    assert len(caught.value.lines) == 1
    assert said in caught.value.lines[0]
