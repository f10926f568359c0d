"""The commands that ask the store, on an embedded Valkey filled through the ledger's own calls."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from extproc.cli import main
from extproc.commands.read import records, rollups
from extproc.commands.store import STORE_URL, read_config
from extproc.core.admission import Identity, entries_for, table_of
from extproc.ledger.base import RollupRow, Settlement
from extproc.ledger.key_cache import KeyCache
from extproc.ledger.keys import KeyStore, digest_of
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.money.amounts import Account, Ask, Need, Option
from extproc.money.tables import encode
from extproc.pb import usage_pb2 as pb
from extproc.reports.periods import DAY_MS, Period, day_of
from tests.contract.ledger_servers import Server

NOW = time.time_ns() // 1_000_000
TODAY, YESTERDAY = day_of(NOW), day_of(NOW - DAY_MS)
SPAN = ("--since", YESTERDAY, "--until", TODAY)
ORG = "acme"
GATEWAY = """\
redis: {url}
auth: {{org: acme}}
backends:
  claude: {{schema: anthropic, base_url: "https://claude.test", api_key: "${{NOT_SET_ANYWHERE}}", location: cloud}}
  qwen: {{schema: openai, base_url: "http://127.0.0.1:1/v1", location: local, models: {{qwen3: {{context: 32768}}}}}}
chains: {{cloud: [claude/claude-sonnet-5, qwen/qwen3], local: [qwen/qwen3]}}
budgets:
  - {{for: {{org: acme}}, usd: 100, per: total}}
  - {{for: {{team: "*"}}, usd: 50, per: total}}
  - {{for: {{key: ci}}, requests: 3, per: total}}
"""
CLAUDE, QWEN = ("claude", "claude-sonnet-5"), ("qwen", "qwen3")
EXACT, FAILED, EXPIRED = pb.Attempt.EXACT, pb.Attempt.FAILED, pb.Attempt.EXPIRED
TOTAL = 3_000_000 + 12_345_678_901 + 1_000_000


class Filler:
    """Makes requests of the past as workers do."""

    def __init__(self, treasury: RedisTreasury, config: Any) -> None:
        self.treasury, self.serial = treasury, 0
        self.table = table_of(config.budgets, [], 1)
        self.epoch = 0

    async def publish(self) -> None:
        self.epoch = (await self.treasury.publish(ORG, encode(self.table), 0, {})).epoch

    def rid(self, at: int) -> bytes:
        self.serial += 1
        return at.to_bytes(6, "big") + b"\x70\x00\x80" + self.serial.to_bytes(7, "big")

    async def reserve(self, team: str, key: str, days: int, bound: int, reason: str, lease: int = 120_000) -> bytes:
        at = NOW - days * DAY_MS
        self.rid_, self.day, self.who = self.rid(at), day_of(at), Identity(ORG, team, key=key)
        self.budgets = tuple(entry.at(NOW) for entry in entries_for(self.table, self.who))
        blob = pb.Admission(request_id=self.rid_.hex(), org=ORG, team=team, key=key, reason=reason,
                            admitted_unix_ms=at).SerializeToString()
        ask = Ask(self.epoch, self.budgets, (), (Option(fixed_nano_usd=bound),))
        assert (await self.treasury.reserve(ORG, self.rid_, blob, lease, ask=ask)).code == "OK"
        return self.rid_

    def row(self, backend: tuple[str, str]) -> RollupRow:
        return RollupRow(self.day, self.who.team, "", "", self.who.key, backend[1], backend[0])

    async def begin(self, number: int, backend: tuple[str, str], bound: int, lease: int = 120_000) -> None:
        need = pb.Attempt(number=number, backend=backend[0], model_used=backend[1], outcome=EXPIRED)
        begun = await self.treasury.begin(ORG, self.rid_, number, need.SerializeToString(), lease, bound=Need(bound),
                                          row=self.row(backend))
        assert begun.code == "OK"

    async def end(self, number: int, backend: tuple[str, str], cost: int | None, read: int, written: int,
                  outcome: Any = EXACT, *, final: bool = True, status: int = 200) -> str:
        blob = pb.Attempt(number=number, backend=backend[0], model_used=backend[1], outcome=outcome, status=status,
                          cost_nano_usd=cost, tokens=pb.Tokens(input=read, output=written) if read else None)
        settlement = Settlement(blob.SerializeToString(), cost, read, written, self.row(backend))
        ended = await self.treasury.end(ORG, self.rid_, number, settlement, final=final, account=Account(self.budgets))
        return ended.code

    async def simple(self, team: str, key: str, days: int, backend: tuple[str, str], cost: int | None, read: int,
                     written: int, reason: str) -> None:
        bound = cost or 0
        await self.reserve(team, key, days, bound, reason)
        await self.begin(1, backend, bound)
        assert await self.end(1, backend, cost, read, written) == "DONE"

    async def fill(self) -> None:
        await self.publish()
        await self.simple("web", "ci", 0, QWEN, 0, 900, 100, "simple (0.1 < 0.5): short")
        await self.simple("web", "ci", 0, CLAUDE, 3_000_000, 1000, 100, "pinned by model claude-sonnet-5")
        await self.simple("pay", "größe", 1, CLAUDE, 12_345_678_901, 50_000, 400, "simple (0.2 < 0.5): short")
        await self.simple("web", "bob", 0, CLAUDE, None, 70, 7, "complex (0.9 >= 0.5): long")
        await self.reserve("pay", "größe", 1, 500, "complex (0.9 >= 0.5): long")  # fails over
        await self.begin(1, CLAUDE, 500)
        assert await self.end(1, CLAUDE, 0, 0, 0, FAILED, final=False, status=429) == "OPEN"
        await self.begin(2, QWEN, 0)
        assert await self.end(2, QWEN, 0, 500, 50) == "DONE"
        await self.treasury.finish(ORG, await self.reserve("web", "bob", 0, 5, "simple (0.1 < 0.5): short"))  # unsent
        await self.reserve("web", "bob", 0, 5_000_000, "complex (0.9 >= 0.5): long", 0)  # its worker dies
        await self.begin(1, CLAUDE, 5_000_000, 0)
        assert await self.treasury.sweep(ORG) == 1
        assert await self.end(1, CLAUDE, 1_000_000, 30, 3) == "LATE"
        self.rid_ = self.rid(NOW)  # never reserved
        assert await self.end(1, CLAUDE, 77, 20, 2) == "ORPHAN"
        who = pb.Admission(request_id="cached", org=ORG, team="web", key="bob", admitted_unix_ms=NOW).SerializeToString()
        assert (await self.treasury.note(ORG, self.rid(NOW), who, self.row(CLAUDE))).code == "DONE"
        adjusted = await self.treasury.adjust(ORG, self.rid(NOW), who, self.row(CLAUDE), self.budgets, -77)
        assert adjusted.code == "DONE"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    own = Server("valkey")
    yield own
    own.remove()


@pytest.fixture(scope="module")
def gateway(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gateway.yaml whose store holds two days of usage."""
    path = tmp_path_factory.mktemp("gateway") / "gateway.yaml"
    path.write_text(GATEWAY.format(url=server.url))

    async def work() -> None:
        treasury = RedisTreasury(server.url, connect_timeout=2, call_timeout=5)
        await Filler(treasury, read_config(path, {})).fill()
        await treasury.close()

    asyncio.run(work())
    return path


def run(*args: str | Path, code: int = 0, env: dict[str, str | None] | None = None) -> Result:
    """Run a command in this process."""
    told = CliRunner().invoke(main, [str(arg) for arg in args], env={"REDIS_URL": None} | (env or {}))
    assert told.exit_code == code, told.output + repr(told.exception)
    return told


def data(*args: str | Path) -> Any:
    return json.loads(run(*args, "--format", "json").stdout)


# ---------------------------------------------------------------------------------------- usage


def test_usage_csv(gateway: Path) -> None:
    """Usage by team and model, to the nano-dollar."""
    assert run("usage", *SPAN, "-c", gateway, "--format", "csv").stdout == (
        "team,model,requests,input,output,unpriced,cost_nano_usd,cost_usd\n"
        "pay,claude-sonnet-5,1,50000,400,0,12345678901,12.345678901\n"
        "web,claude-sonnet-5,5,1120,112,1,4000000,0.004\n"
        "pay,qwen3,1,500,50,0,0,0.00\n"
        "web,qwen3,1,900,100,0,0,0.00\n")


def test_usage_json(gateway: Path) -> None:
    """JSON names the period and has the sum."""
    told = data("usage", *SPAN, "-c", gateway, "--by", "day")
    assert told == {
        "org": ORG, "since": YESTERDAY, "until": TODAY, "by": ["day"],
        "rows": [
            {"day": YESTERDAY, "requests": 2, "input": 50_500, "output": 450, "unpriced": 0,
             "cost_nano_usd": 12_345_678_901, "cost_usd": "12.345678901"},
            {"day": TODAY, "requests": 6, "input": 2020, "output": 212, "unpriced": 1, "cost_nano_usd": 4_000_000,
             "cost_usd": "0.004"},
        ],
        "total": {"requests": 8, "input": 52_520, "output": 662, "unpriced": 1, "cost_nano_usd": TOTAL,
                  "cost_usd": "12.349678901"},
    }


def test_usage_table(gateway: Path) -> None:
    """The table for people has groups of digits and the sum."""
    lines = run("usage", *SPAN, "-c", gateway, "--by", "key", "--team", "pay").stdout.splitlines()
    assert lines[-1].split() == ["total", "2", "50,500", "450", "0", "$12.345678901"]
    assert lines[2].split() == ["größe", "2", "50,500", "450", "0", "$12.345678901"]


def test_usage_parquet(gateway: Path, tmp_path: Path) -> None:
    """Parquet has the same rows."""
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "usage.parquet"
    run("usage", *SPAN, "-c", gateway, "--format", "parquet", "-o", path)
    rows = parquet.read_table(io.BytesIO(path.read_bytes())).to_pylist()
    assert sum(row["cost_nano_usd"] for row in rows) == TOTAL
    assert {row["team"] for row in rows} == {"pay", "web"}


def test_no_usage(gateway: Path) -> None:
    """Where there is nothing, that is said, and data forms stay data."""
    told = run("usage", "--since", "2020-01-01", "--until", "2020-01-02", "-c", gateway)
    assert "org acme has no usage in 2020-01-01 to 2020-01-02" in told.stderr
    assert run("usage", "--since", "2020-01-01", "--until", "2020-01-02", "-c", gateway, "--format", "csv").stdout == (
        "team,model,requests,input,output,unpriced,cost_nano_usd,cost_usd\n")


# ---------------------------------------------------------------------------------------- budgets


def test_budgets(gateway: Path) -> None:
    """Every window with its name, what is spent and what is left; nothing is reserved at rest."""
    told = data("budgets", "-c", gateway)
    usd = 10**9
    seen = [(row["whom"], row["name"], row["unit"], row["spent"], row["reserved"], row["debt"], row["limit"], row["free"],
             row["used_percent"], row["resets_in"]) for row in told["rows"]]
    assert [seen[0], *sorted(seen[1:])] == [
        ("org", "acme", "usd", TOTAL, 0, 0, 100 * usd, 100 * usd - TOTAL, 12.3, "never"),
        ("key", "ci", "requests", 2, 0, 0, 3, 1, 66.6, "never"),
        ("team", "pay", "usd", 12_345_678_901, 0, 0, 50 * usd, 50 * usd - 12_345_678_901, 24.6, "never"),
        ("team", "web", "usd", 4_000_000, 0, 0, 50 * usd, 50 * usd - 4_000_000, 0.0, "never"),
    ]


def test_budgets_without_configuration(gateway: Path, server: Server) -> None:
    """Without a gateway.yaml names are found in usage."""
    told = data("budgets", "--redis-url", server.url, "--org", ORG)
    assert sorted(row["name"] for row in told["rows"]) == ["acme", "ci", "pay", "web"]


# ---------------------------------------------------------------------------------------- report


def test_report(gateway: Path) -> None:
    """The report adds up, and tells savings, places, failovers and the dearest requests."""
    told = data("report", *SPAN, "-c", gateway)
    [total] = told["total"]
    assert {name: total[name] for name in ("requests", "cost_nano_usd", "unfunded_nano_usd", "unpriced", "failed_over",
                                           "done", "unsent", "expired", "late", "orphan", "cached", "adjust")} == {
        "requests": 9, "cost_nano_usd": TOTAL, "unfunded_nano_usd": 0, "unpriced": 1, "failed_over": 1,
        "done": 5, "unsent": 1, "expired": 1, "late": 1, "orphan": 1, "cached": 1, "adjust": 1}
    spend = {(row["model"], row["backend"]): row["cost_nano_usd"] for row in told["spend"]}
    assert spend == {("claude-sonnet-5", "claude"): TOTAL + 77, ("qwen3", "qwen"): 0, ("(correction)", ""): -77}
    [savings] = told["savings"]
    assert (savings["requests"], savings["left_out"]) == (6, 1)
    assert savings["actual_nano_usd"] == TOTAL + 77, "all but a correction by hand"
    assert savings["saved_nano_usd"] == savings["at_baseline_nano_usd"] - savings["actual_nano_usd"]
    assert [(row["answered"], row["requests"], row["input"]) for row in told["where"]] == [
        ("local", 2, 1400), ("cloud", 5, 51_120)]
    assert {row["why"]: row["requests"] for row in told["could_be_local"]} == {
        "sent to a cloud by name or rule, never judged": 1}  # the simple one is too long for the local model
    assert told["failovers"] == [{"from_backend": "claude", "to_backend": "qwen", "cause": "429", "times": 1}]
    assert [row["cost_nano_usd"] for row in told["top"]] == [12_345_678_901, 3_000_000, 1_000_000, 77]


def test_report_table(gateway: Path, tmp_path: Path) -> None:
    """The report for people has every section that has something to say."""
    path = tmp_path / "report.txt"
    run("report", *SPAN, "-c", gateway, "-o", path, "--top", "1")
    text = path.read_text("utf-8")
    for heading in ("In all", "Spend by model", "Savings", "Where answers", "What a cloud", "Failovers", "Dearest"):
        assert heading in text
    assert text.count("$12.345678901") == 1


def test_baseline_price_of_the_day(gateway: Path) -> None:
    """The baseline is the price catalogue's, so a dearer model saves more."""
    costs = [data("report", *SPAN, "-c", gateway, "--baseline", model)["savings"][0]["at_baseline_nano_usd"]
             for model in ("anthropic/claude-haiku-4-5", "anthropic/claude-opus-4-1")]
    assert 0 < costs[0] < costs[1]


@pytest.mark.parametrize("page", [1, 3, 1000])
def test_sums_agree(gateway: Path, server: Server, page: int) -> None:
    """Stream, rollups and the org's budget have the same sum, in total and by day, whatever the size of a page."""

    async def work() -> tuple[dict[str, int], dict[str, int], int]:
        treasury = RedisTreasury(server.url, connect_timeout=2, call_timeout=5)
        from datetime import date
        span = Period(date.fromisoformat(YESTERDAY), date.fromisoformat(TODAY))
        streamed, summed = dict.fromkeys(span.days(), 0), dict.fromkeys(span.days(), 0)
        seen: list[str] = []
        async for at, record in records(treasury.door, ORG, span, page):
            from extproc.reports.spending import admitted_ms
            streamed[day_of(admitted_ms(record, at))] += record.delta_nano_usd
            seen.append(record.admission.request_id + record.state)
        assert len(seen) == len(set(seen)) == 11
        for day in span.days():
            async for row in rollups(treasury.door, ORG, day, page):
                summed[day] += int(row["cost"])
        audit = await treasury.audit(ORG)
        await treasury.close()
        return streamed, summed, sum(w.spent + w.debt for w in audit.windows if w.budget.startswith("org."))

    streamed, summed, charged = asyncio.run(work())
    assert streamed == summed == {YESTERDAY: 12_345_678_901, TODAY: 4_000_000}
    assert charged == TOTAL


# ---------------------------------------------------------------------------------------- keys


def secret_of(told: Result) -> str:
    assert re.fullmatch(r"gw-[\w-]{43}\n", told.stdout), told.stdout
    return told.stdout.strip()


def ask(url: str, *secrets: str) -> list[str | None]:
    """Whose keys these are, by name, as a worker sees it."""

    async def work() -> list[str | None]:
        treasury = RedisTreasury(url, connect_timeout=2, call_timeout=5)
        cache = KeyCache(KeyStore(treasury.door))
        found = [await cache.find(digest_of(secret)) for secret in secrets]
        await treasury.close()
        return [None if caller is None else f"{caller.key} of {caller.org}/{caller.team}" for caller in found]

    return asyncio.run(work())


def test_a_key_that_nobody_asks_for(gateway: Path, tmp_path: Path) -> None:
    """Where the configuration asks for no keys, making one says so."""
    assert "nobody is asked for it: auth.mode is none" in run("keys", "create", "--name", "idle", "-c", gateway).stderr
    keyed = tmp_path / "gateway.yaml"
    keyed.write_text(gateway.read_text().replace("auth: {org: acme}", "auth: {org: acme, mode: keys}"))
    assert "nobody is asked" not in run("keys", "create", "--name", "busy", "-c", keyed).stderr


def test_life_of_a_key(gateway: Path, server: Server) -> None:
    """A key is made, used, replaced with an overlap, changed and revoked; its secret is in no file of the store."""
    first = secret_of(run("keys", "create", "--name", "jürgen 🎩", "--team", "web", "--expires", "90d", "--route",
                          "cloud", "-c", gateway))
    second = secret_of(run("keys", "rotate", "jürgen 🎩", "--overlap", "24h", "-c", gateway))
    assert ask(server.url, first, second, "gw-guess") == ["jürgen 🎩 of acme/web"] * 2 + [None]
    listed = data("keys", "list", "--team", "web", "-c", gateway)["rows"]
    assert [(row["name"], row["routes"], row["state"]) for row in listed] == [("jürgen 🎩", ["cloud"], "live")] * 2
    run("keys", "update", "jürgen 🎩", "--team", "pay", "--route", "*", "--expires", "never", "-c", gateway)
    assert ask(server.url, first, second) == ["jürgen 🎩 of acme/pay"] * 2
    digest = digest_of(second).hex()
    assert digest[:16] in run("keys", "revoke", digest[:8].upper(), "-c", gateway).stderr
    assert ask(server.url, first, second) == ["jürgen 🎩 of acme/pay", None]
    run("keys", "revoke", "jürgen 🎩", "-c", gateway)
    assert data("keys", "list", "--team", "pay", "-c", gateway)["rows"] == []
    assert len(data("keys", "list", "--team", "pay", "--all", "-c", gateway)["rows"]) == 2
    stored = b"".join(path.read_bytes() for path in server.folder.rglob("*") if path.is_file())
    assert digest.encode() in stored
    assert [secret.encode() in stored for secret in (first, second)] == [False, False]


def test_list_is_cut(gateway: Path) -> None:
    """A long list is cut, and that is said."""
    for number in range(3):
        run("keys", "create", "--name", f"many {number}", "--team", "many", "-c", gateway)
    told = run("keys", "list", "--team", "many", "--limit", "2", "-c", gateway)
    assert ("many 1" in told.stdout, "many 2" in told.stdout) == (True, False)
    assert "only the first 2 are shown" in told.stderr
    for limit, names in ((2, ["many 0", "many 1"]), (3, ["many 0", "many 1", "many 2"])):
        told = run("keys", "list", "--team", "many", "--limit", limit, "--format", "json", "-c", gateway)
        assert [row["name"] for row in json.loads(told.stdout)["rows"]] == names
        assert ("are shown" in told.stderr) == (limit == 2)
        told = run("keys", "list", "--team", "many", "--limit", limit, "--format", "csv", "-c", gateway)
        assert [line.partition(",")[0] for line in told.stdout.splitlines()] == ["name", *names]


def test_config_only() -> None:
    """Without a store a key is an entry of gateway.yaml, with its hash."""
    told = run("keys", "create", "--name", "ci", "--team", "web", "--route", "cloud", "--config-only").stderr
    secret = re.search(r"gw-[\w-]{43}", told)[0]
    entry = json.loads(told.splitlines()[-1].removeprefix("  - "))
    assert entry == {"name": "ci", "sha256": digest_of(secret).hex(), "team": "web", "project": "", "routes": ["cloud"]}


# ---------------------------------------------------------------------------------------- which store


def test_embedded_store_is_found(gateway: Path, server: Server, tmp_path: Path) -> None:
    """The store of an `extproc up` in this folder is found, with its configuration; one that has ended is not."""
    beside = Path(server.url.removeprefix("unix://")).parent / "gateway.yaml"
    beside.write_text(gateway.read_text())
    for number, url in enumerate(("unix:///nowhere/store.sock", server.url)):
        (tmp_path / f"gateway-{number}").mkdir()
        (tmp_path / f"gateway-{number}" / STORE_URL).write_text(url)
    assert data("usage", *SPAN, "--state", tmp_path)["total"]["cost_nano_usd"] == TOTAL
    (tmp_path / "gateway-0" / STORE_URL).write_text(server.url)
    told = run("usage", "--state", tmp_path, code=1).stderr
    assert told.startswith("extproc: 2 gateways run on ")
    beside.unlink()


def test_environment_goes_before_the_file(gateway: Path, server: Server) -> None:
    """REDIS_URL names the store, as for the gateway itself; --redis-url goes before both."""
    wrong = {"REDIS_URL": "unix:///nowhere.sock"}
    assert "/nowhere.sock does not answer" in run("usage", "-c", gateway, code=1, env=wrong).stderr
    assert run("usage", "-c", gateway, "--redis-url", server.url, env=wrong).exit_code == 0


@pytest.mark.parametrize(("args", "says"), [
    (("usage",), "start one, set REDIS_URL, or give --redis-url"),
    (("keys", "list"), "start one, set REDIS_URL, or give --redis-url"),
    (("keys", "create", "--name", "a"), "start one, set REDIS_URL, or give --redis-url"),
    (("usage", "-c", "nope.yaml"), "nope.yaml: cannot be read"),
    (("usage", "--redis-url", "http://x"), "expected redis://"),
    (("usage", "--redis-url", "redis://:hidden@127.0.0.1:99999"), "cannot be used"),
    (("budgets", "--redis-url", "redis://:hidden@127.0.0.1:1"), "redis://:…@127.0.0.1:1 does not answer"),
    (("usage", "--since", "7h"), "give days or weeks"),
    (("usage", "--until", "soon"), "expected a date"),
    (("usage", "--by", "price"), "day, team, project"),
    (("report", "--baseline", "sonnet"), "expected PROVIDER/MODEL"),
    (("report", "--baseline", "nobody/nothing"), "give another one"),
    (("keys", "create", "--name", "a", "--expires", "soon"), "such as 90d"),
    (("keys", "create", "--name", "a", "--expires", "0d"), "such as 90d"),
    (("keys", "create", "--name", "a", "--expires", "9d", "--config-only"), "does not expire"),
    (("usage", "STORE", "-o", "/nowhere/x"), "/nowhere/x cannot be written"),
    (("budgets", "STORE", "--org", "nobody"), "org nobody has no budgets"),
    (("keys", "create", "STORE", "--name", " a"), "is not allowed"),
    (("keys", "create", "STORE", "--name", ""), "is empty"),
    (("keys", "create", "STORE", "--name", "a", "--expires", "99999d"), "36500d"),
    (("keys", "create", "CONFIG", "--name", "a", "--route", "clout"), "allowed: cloud, local, smart"),
    (("keys", "rotate", "STORE", "nobody"), "extproc keys list"),
    (("keys", "rotate", "STORE", "nobody", "--overlap", "x"), "such as 90d"),
    (("keys", "revoke", "STORE", "nobody"), "extproc keys list"),
    (("keys", "revoke", "STORE", "abcdef0123"), "extproc keys list"),
    (("keys", "update", "STORE", "nobody"), "nothing to change"),
], ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_errors(gateway: Path, server: Server, tmp_path: Path, args: tuple[str, ...], says: str) -> None:
    """Every error is one line that says what to do, without a password."""
    given: list[str] = []
    for arg in args:
        given += {"STORE": ["--redis-url", server.url], "CONFIG": ["-c", str(gateway)]}.get(arg, [arg])
    told = run(*given, "--state", tmp_path, code=1)
    assert told.stdout == ""
    assert re.fullmatch(r"extproc: [^\n]+\n", told.stderr), told.stderr
    assert says in told.stderr
    assert "hidden" not in told.stderr


def test_name_in_force(gateway: Path) -> None:
    """A name that is taken is an error that says how to replace its key."""
    run("keys", "create", "--name", "a b", "-c", gateway)
    told = run("keys", "create", "--name", "a b", "-c", gateway, code=1)
    assert "extproc keys rotate 'a b' --overlap 24h" in told.stderr


def test_a_reader_that_leaves(gateway: Path) -> None:
    """A pipe that is closed early ends the command without a traceback."""
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    command = [sys.executable, "-m", "extproc.cli", "usage", *SPAN, "-c", str(gateway), "--format", "csv"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == 1
