"""`extproc export`, `budgets publish` and `budgets rebuild` on a real store: each record once, whatever dies; spend is
back after the store has lost its data."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from extproc.cli import main
from extproc.commands.folder import Folder, folder_of
from extproc.commands.store import read_config
from extproc.config import changed_at
from extproc.core.admission import Identity, entries_for, table_of
from extproc.ledger.export import START, Log, OtherExporter, Position, Stream
from extproc.ledger.keyspace import keys_of
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.money.amounts import Audit, Unit
from extproc.money.tables import encode
from extproc.pb import usage_pb2 as pb
from extproc.reports import lines
from tests.contract.ledger_kit import Desk, admission, costs, make_rid, now_ms, used
from tests.contract.ledger_servers import Server

GATEWAY = """\
auth: {{org: "{org}"}}
backends: {{qwen: {{schema: openai, base_url: "http://127.0.0.1:1/v1", location: local}}}}
chains: {{cloud: [qwen/q], local: [qwen/q]}}
budgets:
  - {{for: {{org: "{org}"}}, usd: {usd}, per: total}}
  - {{for: {{team: "*"}}, usd: 50, per: month, time_zone: Europe/Berlin}}
  - {{for: {{user: "*"}}, tokens: 1000, per: day}}
  - {{for: {{key: ci}}, requests: 30, per: total}}
limits:
  - {{for: {{team: web}}, concurrent: 20}}
money: {{generation: {generation}}}
"""
KILLED = """\
import os, signal, sys
from extproc.cli import main
from extproc.ledger.link import Link

left = [int(sys.argv.pop(1))]

def step():
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)

def dying(function):
    def wrapped(*args, **options):
        step()
        try:
            return function(*args, **options)
        finally:
            step()
    return wrapped

os.fsync, os.replace, Link.call = dying(os.fsync), dying(os.replace), dying(Link.call)
main()
"""


@pytest.fixture(scope="module")
def store() -> Iterator[Server]:
    own = Server("valkey")
    yield own
    own.remove()


def on(store: Server, work: Callable[[RedisTreasury], Awaitable[Any]]) -> Any:
    """Do something in the store."""

    async def inside() -> Any:
        treasury = RedisTreasury(store.url, connect_timeout=2, call_timeout=5)
        try:
            return await work(treasury)
        finally:
            await treasury.close()

    return asyncio.run(inside())


def fill(store: Server, org: str, count: int) -> list[str]:
    """Add records as workers do; return their request ids."""

    async def work(treasury: RedisTreasury) -> list[str]:
        ids: list[str] = []
        for _ in range(count):
            rid = make_rid()
            ids.append(rid.hex())
            await treasury.reserve(org, rid, admission(rid))
            await treasury.begin(org, rid, 1, used(1).attempt)
            assert await treasury.end(org, rid, 1, used(1), final=True) == "DONE"
        return ids

    return on(store, work)


def stream(store: Server, org: str) -> Stream:
    return on(store, lambda treasury: Log(treasury).stream(org))


def run(*args: str | Path, code: int = 0) -> Result:
    told = CliRunner().invoke(main, [str(arg) for arg in args], env={"REDIS_URL": None})
    assert told.exit_code == code, told.output + repr(told.exception)
    return told


def export(store: Server, root: Path, *more: str, code: int = 0) -> Result:
    return run("export", "--to", root, "--redis-url", store.url, *more, code=code)


def exported(root: Path, org: str) -> list[str]:
    """The request ids in all lines of all files, in the order of the stream."""
    found: list[str] = []
    for file in Folder(root, org).files():
        rows = [json.loads(line) for line in file.path.read_text("utf-8").splitlines()]
        assert [rows[0]["id"], rows[-1]["id"]] == [str(file.first), str(file.last)]
        found += [row["admission"]["request_id"] for row in rows]
    return found


# ---------------------------------------------------------------------------------------- export


def test_export_goes_on_where_it_ended(store: Server, org: str, tmp_path: Path) -> None:
    """Each run writes what is new, in files of at most a batch, and nothing is removed unless asked for."""
    ids = fill(store, org, 5)
    export(store, tmp_path, "--batch", "2", "--org", org)
    assert [len(file.path.read_text().splitlines()) for file in Folder(tmp_path, org).files()] == [2, 2, 1]
    export(store, tmp_path, "--org", org)
    ids += fill(store, org, 2)
    told = export(store, tmp_path, "--org", org)
    assert f"org {org}: 2 records exported, 0 removed" in told.stderr
    assert exported(tmp_path, org) == ids
    assert stream(store, org).length == 7


def test_every_org(store: Server, org: str, tmp_path: Path) -> None:
    """Without --org all are exported, also one whose name is no name of a folder."""
    names = [org, f"../{org}/ö", "." * 300 + org]
    ids = {name: fill(store, name, 2) for name in names}
    root = tmp_path / "to"
    export(store, root, "--group", org)
    assert {name: exported(root, name) for name in names} == ids
    assert all(folder_of(root, name).parent == root for name in names)
    assert list(tmp_path.iterdir()) == [root]


def test_lines_are_the_records(store: Server, org: str, tmp_path: Path) -> None:
    """A line has every field of the record, integers as numbers, and reads back as the same record."""
    fill(store, org, 1)
    export(store, tmp_path, "--org", org)
    [record] = on(store, lambda treasury: treasury.records(org))
    [entry] = Folder(tmp_path, org).records()
    assert entry.record == record
    row = json.loads(Folder(tmp_path, org).files()[0].path.read_text())
    assert (row["state"], row["delta_nano_usd"], row["delta_tokens"]) == ("done", 7, 14)
    assert row["attempts"][0]["outcome"] == "EXACT"
    assert "cost_nano_usd" not in row["attempts"][0]  # absent is unknown, never zero


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_forms_lose_nothing(form: lines.Form) -> None:
    """Every field of a record, at the ends of its range, comes back from both forms."""
    big = 2**53 - 1
    attempt = pb.Attempt(number=1, backend="b", outcome=pb.Attempt.EXPIRED, tokens=pb.Tokens(input=0, reasoning=big),
                         cost_nano_usd=0, error_body='"\u2028\r\n\\ 🎩')
    full = pb.UsageRecord(state="late", admission=pb.Admission(org="ö", stream=True, admitted_unix_ms=big),
                          attempts=[attempt, pb.Attempt()], delta_nano_usd=-big, delta_tokens=-1,
                          unfunded_nano_usd=2**64 - 1, budgets=["a:1", "b:2"], option=1, max_tokens=big)
    entries = [lines.Logged(1, 0, full), lines.Logged(1, 1, pb.UsageRecord())]
    if form == "parquet":
        pytest.importorskip("pyarrow")
        assert lines.from_parquet(lines.as_parquet(entries)) == entries
    else:
        assert lines.from_jsonl(lines.as_jsonl(entries)) == entries


def test_parquet_and_lines_in_one_folder(store: Server, org: str, tmp_path: Path) -> None:
    """The form may be changed between runs: the files are one sequence."""
    pytest.importorskip("pyarrow")
    ids = fill(store, org, 2)
    export(store, tmp_path, "--org", org, "--format", "parquet")
    ids += fill(store, org, 1)
    export(store, tmp_path, "--org", org)
    assert [file.path.suffix for file in Folder(tmp_path, org).files()] == [".parquet", ".jsonl"]
    assert [entry.record.admission.request_id for entry in Folder(tmp_path, org).records()] == ids


def test_killed_at_each_point(store: Server, org: str, tmp_path: Path) -> None:
    """Wherever an export is killed, the next one leaves each record in exactly one line, and no record is lost."""
    program = tmp_path / "killed.py"
    program.write_text(KILLED)
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    killed, trimmed_early = 0, 0
    for steps in range(1000):
        name, root = f"{org}-{steps}", tmp_path / str(steps)
        ids = fill(store, name, 3)
        words = ["export", "--to", str(root), "--redis-url", store.url, "--org", name, "--batch", "2", "--trim"]
        code = subprocess.run([sys.executable, program, str(steps), *words], env=environment, capture_output=True,
                              timeout=30).returncode
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        kept = stream(store, name).length
        assert exported(root, name) == ids[: len(exported(root, name))]
        assert len(exported(root, name)) + kept >= 3, "what left the store is in the files"
        trimmed_early += kept < 3 and code != 0
        ids += fill(store, name, 1)
        export(store, root, "--org", name, "--batch", "3")  # another batch than the one that was killed
        assert exported(root, name) == ids
        assert not list(root.rglob(".new"))
        if code == 0:
            break
    assert killed >= 20
    assert trimmed_early >= 1


def test_export_while_requests_run(store: Server, org: str, tmp_path: Path) -> None:
    """Records that come while others are exported and removed are in the files once, in their order."""
    fill(store, org, 1)
    with ThreadPoolExecutor(1) as pool:
        filling = pool.submit(fill, store, org, 400)
        runs = 0
        while not filling.done():
            export(store, tmp_path, "--org", org, "--trim", "--batch", "7")
            runs += 1
        ids = filling.result()
    assert runs >= 1
    export(store, tmp_path, "--org", org, "--trim")
    assert len(Folder(tmp_path, org).files()) > 10
    assert exported(tmp_path, org)[1:] == ids
    assert stream(store, org).length == 0


def test_trim_takes_what_every_group_has(store: Server, org: str, tmp_path: Path) -> None:
    """Records leave the store when all groups have them; what a foreign group has not acknowledged stays."""
    log = keys_of(org).log
    fill(store, org, 4)
    first = on(store, lambda treasury: Log(treasury).page(org, START, 1))[0][0]

    async def other(treasury: RedisTreasury) -> None:
        await treasury.door.call(("XGROUP", "CREATE", log, "billing", "0"))
        await treasury.door.call(("XREADGROUP", "GROUP", "billing", "one", "COUNT", 2, "STREAMS", log, ">"))
        await treasury.door.call(("XACK", log, "billing", str(first)))

    on(store, other)
    export(store, tmp_path, "--org", org, "--trim")
    assert stream(store, org).length == 3  # the second is read there and not acknowledged
    on(store, lambda treasury: treasury.door.call(("XGROUP", "DESTROY", log, "billing")))
    export(store, tmp_path, "--org", org, "--trim", "--keep", "1h")
    assert stream(store, org).length == 3
    fill(store, org, 1)
    export(store, tmp_path, "--org", org, "--trim")
    assert stream(store, org).length == 0
    assert len(exported(tmp_path, org)) == 5
    fill(store, org, 1)
    export(store, tmp_path, "--org", org, "--trim")
    assert len(exported(tmp_path, org)) == 6


def test_nothing_is_trimmed_without_an_export(store: Server, org: str) -> None:
    """A group that has acknowledged nothing removes nothing, even where another one has all."""
    fill(store, org, 2)

    async def work(treasury: RedisTreasury) -> tuple[int, int]:
        log = Log(treasury)
        last = (await log.stream(org)).last
        before = await log.trim(org, "export")
        await log.acknowledge(org, "other", START, last)
        return before, await log.trim(org, "export")

    assert on(store, work) == (0, 0)
    assert stream(store, org).length == 2


def test_two_exporters_of_one_group(store: Server, org: str) -> None:
    """An acknowledgement by one that does not know where the group stands changes nothing."""
    fill(store, org, 2)

    async def work(treasury: RedisTreasury) -> Position:
        log = Log(treasury)
        [(first, _), (second, _)] = await log.page(org, START)
        await log.acknowledge(org, "export", START, second)
        with pytest.raises(OtherExporter) as refused:
            await log.acknowledge(org, "export", START, first)
        assert refused.value.stands == second
        return (await log.stream(org)).groups["export"]

    assert on(store, work) == stream(store, org).last


def test_wrong_folder(store: Server, org: str, tmp_path: Path) -> None:
    """A folder without the files of before is refused, so that no gap can arise; another group has its own."""
    ids = fill(store, org, 2)
    export(store, tmp_path / "a", "--org", org)
    told = export(store, tmp_path / "b", "--org", org, code=1)
    assert "give the folder of then, or another --group" in told.stderr
    export(store, tmp_path / "b", "--org", org, "--group", "second")
    assert exported(tmp_path / "b", org) == ids
    other = Server("valkey")
    try:
        fill(other, org, 1)
        ahead = folder_of(tmp_path / "a", org) / f"{now_ms() + 10**6}-0_{now_ms() + 10**6}-0.jsonl"
        ahead.write_text("")
        assert "another store or an older copy" in export(other, tmp_path / "a", "--org", org, code=1).stderr
    finally:
        other.remove()


def test_trimmed_before_it_began(store: Server, org: str, tmp_path: Path) -> None:
    """An export that begins when records are gone already says so."""
    fill(store, org, 3)
    export(store, tmp_path / "a", "--org", org, "--trim")
    fill(store, org, 1)
    told = export(store, tmp_path / "b", "--org", org, "--group", "second")
    assert "3 records were removed before this export began" in told.stderr


def test_follow(store: Server, org: str, tmp_path: Path) -> None:
    """With --follow new records are written as they come; a second exporter is kept out; SIGTERM is a clean end."""
    ids = fill(store, org, 1)
    words = ["export", "--to", str(tmp_path / "to"), "--redis-url", store.url, "--org", org, "--follow", "--every", "1s"]
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    process = subprocess.Popen([sys.executable, "-m", "extproc.cli", *words], env=environment, stderr=subprocess.PIPE)
    try:
        wait(lambda: exported(tmp_path / "to", org) == ids)
        assert "another `extproc export` writes into" in export(store, tmp_path / "to", code=1).stderr
        ids += fill(store, org, 2)
        wait(lambda: exported(tmp_path / "to", org) == ids)
        process.terminate()
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read().decode()
    finally:
        process.kill()
        process.communicate()


def wait(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.parametrize(("words", "says"), [
    (("--keep", "1d"), "--keep is for --trim"),
    (("--follow", "--every", "soon"), "expected a length of time"),
    (("--follow", "--every", "0s"), "expected at least 1s"),
    (("--group", ""), "--group is empty"),
])
def test_export_is_refused(store: Server, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    """Options that mean nothing are one line that says what to do."""
    told = export(store, tmp_path, *words, code=1).stderr
    assert says in told
    assert told.count("\n") == 1


def test_folder_that_cannot_be_written(store: Server, tmp_path: Path) -> None:
    """A folder that cannot be made is one line."""
    (tmp_path / "file").write_text("")
    assert "cannot be written" in export(store, tmp_path / "file" / "x", code=1).stderr


# ---------------------------------------------------------------------------------------- publish and rebuild


def gateway(folder: Path, org: str, usd: int = 100, generation: int = 1) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(GATEWAY.format(org=org, usd=usd, generation=generation))
    return path


def budgets(store: Server, command: str, config: Path, *more: str | Path, code: int = 0) -> str:
    told = run("budgets", command, "-c", config, "--redis-url", store.url, *more, code=code).stderr
    assert told.count("\n") == 1
    return told


def test_publish_of_a_changed_file(store: Server, org: str, tmp_path: Path) -> None:
    """Without a generation the file's time counts, to the command as to the workers: the later one is in force."""
    path = gateway(tmp_path, org)

    def changed(usd: int) -> Path:
        path.write_text(GATEWAY.replace("money:", "#").format(org=org, usd=usd, generation=1))
        return path

    worker = table_of(read_config(changed(100)).budgets, [], changed_at(path))
    on(store, lambda treasury: treasury.publish(org, encode(worker), 0, {}))
    time.sleep(0.01)
    assert f"of generation {changed_at(changed(90))}" in budgets(store, "publish", path)


def test_publish(store: Server, org: str, tmp_path: Path) -> None:
    """Budgets come in force by a command; older ones do not replace newer ones unless forced."""
    assert "4 budgets" not in budgets(store, "publish", gateway(tmp_path, org))
    assert "in force already" in budgets(store, "publish", gateway(tmp_path, org))
    assert "generation 2" in budgets(store, "publish", gateway(tmp_path, org, 90, 2))
    assert "is not above 2, which is in force" in budgets(store, "publish", gateway(tmp_path, org, 80, 1), code=1)
    assert "generation 3" in budgets(store, "publish", gateway(tmp_path, org, 80, 1), "--force")
    rows = json.loads(run("budgets", "-c", tmp_path / "gateway.yaml", "--redis-url", store.url, "--format", "json").stdout)
    assert [row["limit"] for row in rows["rows"] if row["whom"] == "org"] == [80 * 10**9]


def spend(store: Server, org: str, config: Path, count: int) -> Audit:
    """Spend under the budgets in force as workers do, some of it above every limit; return the windows."""
    table = table_of(read_config(config, {}).budgets, read_config(config, {}).limits, 1)

    async def work(treasury: RedisTreasury) -> Audit:
        desk = Desk(treasury, org)
        desk.epoch = (await treasury.table(org))[0]
        for number in range(count):
            who = Identity(org, ("web", "pay")[number % 2], user=f"u{number % 3}", key="ci")
            own = tuple(entry.at(now_ms()) for entry in entries_for(table, who))
            rid = make_rid()
            grant = await desk.reserve(rid, costs(number + 5, 20), budgets=own)
            assert grant.code == "OK", grant
            assert (await desk.begin(rid, 1, number + 5, 20)).code == "OK"
            # What is billed above the bound, and above the token budget of its user, is recorded and owed.
            assert (await desk.end(rid, 1, number * 10**9, *own, tokens=20 + 300 * (number % 3))).code == "DONE"
        return await treasury.audit(org)

    return on(store, work)


def money(audit: Audit) -> dict[str, tuple[int, int, int]]:
    return {state.window: (state.spent, state.debt, state.limit) for state in audit.windows
            if state.spent or state.debt}


@pytest.mark.parametrize("trimmed", [False, True])
def test_rebuild(org: str, tmp_path: Path, trimmed: bool) -> None:
    """After a loss of all data every window is as it was, from exported files, or from files and the stream."""
    before, after = Server("valkey"), Server("valkey")
    config = gateway(tmp_path, org)
    try:
        budgets(before, "publish", config)
        spend(before, org, config, 5)
        export(before, tmp_path / "x", "--batch", "2", *(["--trim"] if trimmed else []))
        was = money(spend(before, org, config, 3))
        assert any(debt for _, debt, _ in was.values())
        if trimmed:
            told = budgets(before, "rebuild", config, code=1)
            assert "has budgets in force, as epoch" in told
            on(before, lambda treasury: forget(treasury, org))  # all but the stream
            told = budgets(before, "rebuild", config, code=1)
            assert "5 records" in told
            assert "give the folder they were exported to, with --from" in told
            assert "from 8 records" in budgets(before, "rebuild", config, "--from", tmp_path / "x")
            assert money(on(before, lambda treasury: treasury.audit(org))) == was
        else:
            export(before, tmp_path / "x")
            assert "from 8 records" in budgets(after, "rebuild", config, "--from", tmp_path / "x")
            assert money(on(after, lambda treasury: treasury.audit(org))) == was
    finally:
        before.remove()
        after.remove()


def test_rebuild_under_a_running_gateway(org: str, tmp_path: Path) -> None:
    """Where a worker has begun at zero already, --force brings the lost spend back; what is held stays held."""
    before, after = Server("valkey"), Server("valkey")
    config = gateway(tmp_path, org)
    try:
        budgets(before, "publish", config)
        spend(before, org, config, 4)
        export(before, tmp_path / "x")
        budgets(after, "publish", config)
        spend(after, org, config, 2)
        own = table_of(read_config(config, {}).budgets, [], 1).entries[0].at(now_ms())

        async def hold(treasury: RedisTreasury) -> tuple[bytes, int]:
            rid, desk = make_rid(), Desk(treasury, org)
            desk.epoch = (await treasury.table(org))[0]
            assert (await desk.reserve(rid, costs(500), budgets=(own,))).code == "OK"
            return rid, desk.epoch

        rid, epoch = on(after, hold)
        assert "has budgets in force, as epoch" in budgets(after, "rebuild", config, "--from", tmp_path / "x", code=1)
        assert "from 6 records" in budgets(after, "rebuild", config, "--from", tmp_path / "x", "--force")
        [state] = [w for w in on(after, lambda treasury: treasury.audit(org)).windows if w.budget == own.id]
        assert (state.spent, state.reserved) == ((0 + 1 + 2 + 3 + 0 + 1) * 10**9, 500)
        assert on(after, lambda treasury: treasury.table(org))[0] > epoch, "what was granted before is stale"
        on(after, lambda treasury: treasury.finish(org, rid))
        assert {w.reserved for w in on(after, lambda treasury: treasury.audit(org)).windows} == {0}
    finally:
        before.remove()
        after.remove()


async def forget(treasury: RedisTreasury, org: str) -> None:
    keys = keys_of(org)
    windows = await treasury.door.call(("ZRANGE", keys.windows, 0, -1))
    for key in (keys.epoch, keys.table, keys.windows, *[keys.window(name.decode()) for name in windows]):
        await treasury.door.call(("DEL", key))


def test_rebuild_from_the_stream(org: str, tmp_path: Path) -> None:
    """Where only the windows are gone the stream is enough; what is spent then still counts against the limits."""
    store = Server("valkey")
    config = gateway(tmp_path, org)
    try:
        budgets(store, "publish", config)
        was = money(spend(store, org, config, 4))
        on(store, lambda treasury: forget(treasury, org))
        assert "has lost data; use: extproc budgets rebuild" in budgets(store, "publish", config, code=1)
        assert "from 4 records" in budgets(store, "rebuild", config)
        assert money(on(store, lambda treasury: treasury.audit(org))) == was
        audit = spend(store, org, config, 1)
        assert sum(w.spent + w.debt for w in audit.windows if w.budget.startswith("org.")) == (0 + 1 + 2 + 3 + 0) * 10**9
    finally:
        store.remove()


def test_rebuild_leaves_out_what_is_over(org: str, tmp_path: Path) -> None:
    """Windows that take no corrections any more, and budgets that the table has no more, are not made again."""
    store = Server("valkey")
    config = gateway(tmp_path, org)
    table = table_of(read_config(config, {}).budgets, [], 1)
    daily = next(entry for entry in table.entries if entry.unit is Unit.TOKENS)
    old = daily.at(now_ms() - 40 * 86_400_000)
    try:
        record = pb.UsageRecord(state="done", delta_tokens=5, delta_nano_usd=3,
                                budgets=[f"{old.id}.abc:{old.start_ms}", "gone:0", f"{table.entries[0].id}:0"])
        Folder(tmp_path, org).write([lines.Logged(1, 0, record)], "jsonl")
        assert "1 windows made again from 1 records" in budgets(store, "rebuild", config, "--from", tmp_path)
        assert set(money(on(store, lambda treasury: treasury.audit(org)))) == {f"{table.entries[0].id}:0"}
    finally:
        store.remove()


def test_rebuild_is_refused(store: Server, org: str, tmp_path: Path) -> None:
    """Without any record, and from files that are not whole, nothing is put in force."""
    config = gateway(tmp_path, org)
    assert "has no records in the stream; give the folder" in budgets(store, "rebuild", config, code=1)
    folder = folder_of(tmp_path, org)
    folder.mkdir()
    for name, text, says in (
        ("1-0_1-0.jsonl", "{", "line 1 is not an exported record"),
        ("1-0_1-0.jsonl", "", "does not hold what its name says"),
        ("1-0_2-0.jsonl", '{"id": "1-0"}\n', "does not hold what its name says"),
        ("1-0_1-0.parquet", "PAR1", "not a Parquet file"),
    ):
        path = folder / name
        path.write_text(text)
        assert says in budgets(store, "rebuild", config, "--from", tmp_path, code=1)
        path.unlink()
    assert on(store, lambda treasury: treasury.table(org)) == (0, b"")


@pytest.mark.parametrize("command", ["publish", "rebuild"])
def test_budgets_need_a_configuration(store: Server, command: str) -> None:
    """Without -c, and with options before the sub-command, one line says what to do."""
    told = run("budgets", command, "--redis-url", store.url, code=1)
    assert told.stderr == "extproc: give the gateway.yaml whose budgets to put in force, with -c\n"
    told = run("budgets", "--org", "x", command, code=1)
    assert told.stderr == f"extproc: give options behind {command}, not before it\n"


def test_encoded_table_of_another_version(store: Server, org: str, tmp_path: Path) -> None:
    """A table that cannot be read is not overwritten."""
    on(store, lambda treasury: treasury.publish(org, encode(table_of([], [], 1))[:-1] + b"\xc1", 0, {}))
    assert "another version" in budgets(store, "publish", gateway(tmp_path, org), code=1)


# ---------------------------------------------------------------------------------------- all orgs at once


def lines_of(store: Server, command: str, config: Path, *more: str | Path, code: int = 0) -> list[str]:
    """Run a command for all orgs and return what it told, without what other tests' orgs in the store are told."""
    return run("budgets", command, "-c", config, "--redis-url", store.url, "--all-orgs", *more,
               code=code).stderr.splitlines()


def test_every_org_is_rebuilt(tmp_path: Path) -> None:
    """After a loss one call makes the windows of every org again, also of one with a long or an odd name."""
    before, after = Server("valkey"), Server("valkey")
    orgs = ["default", "a/b größe", "." * 3, "x" * 64 + "ü" * 60]
    config = gateway(tmp_path, "default")
    try:
        was: dict[str, Any] = {}
        for number, org in enumerate(orgs):
            budgets(before, "publish", config, "--org", org)
            on(before, lambda treasury, org=org: treasury.end(org, make_rid(), 1, used(1, 5), final=True))
            was[org] = money(spend(before, org, config, 2 + number))
        export_all = run("export", "--to", tmp_path / "x", "--redis-url", before.url)
        assert export_all.stderr.count("records exported") == len(orgs)
        (tmp_path / "x" / "nobody").mkdir()
        told = lines_of(after, "rebuild", config, "--from", tmp_path / "x", code=1)
        assert sum("budgets in force, as epoch" in line for line in told) == len(orgs)
        assert told[-1] == "extproc: 1 of 5 orgs were left as they are: nobody"
        for org in orgs:
            assert money(on(after, lambda treasury, org=org: treasury.audit(org))) == was[org]
    finally:
        before.remove()
        after.remove()


def test_publish_for_every_org(tmp_path: Path) -> None:
    """One call puts the budgets in force for all orgs of a store; one that fails does not keep the others from it."""
    store = Server("valkey")
    config = gateway(tmp_path, "default")
    try:
        for org in ("default", "acme", "lost"):
            budgets(store, "publish", config, "--org", org)
            spend(store, org, config, 1)
        on(store, lambda treasury: forget(treasury, "lost"))
        told = lines_of(store, "publish", gateway(tmp_path, "default", 90, 2), code=1)
        assert [line.partition(":")[0] for line in told] == ["org acme", "org default", "extproc", "extproc"]
        assert "org lost has records but no budgets in force" in told[2]
        assert "generation 2" in told[0]
        told = lines_of(store, "publish", config, "--org", "acme", code=1)
        assert told == ["extproc: give --org or --all-orgs, not both"]
    finally:
        store.remove()
