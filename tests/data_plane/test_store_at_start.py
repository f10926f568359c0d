"""The store at the start of the real commands: refused in one line, waited for where it is away, and never told of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from extproc.ledger.access import WORKER
from extproc.up import store as module
from tests.contract.ledger_servers import Server
from tests.contract.secure_servers import ENCODED, PASSWORD, Secure, tell
from tests.data_plane import upstream as up
from tests.data_plane.conftest import CONFIG, running
from tests.free_ports import free_port

DEADLINE = 12.0
"""Seconds in which a command must have ended, its own start included."""
SECRETS = (PASSWORD, ENCODED, "wr0ng", "sk-key-of-")
GATEWAY = """\
listen: 127.0.0.1:{listen}
admin: 127.0.0.1:{admin}
envoy_admin: 127.0.0.1:{envoy}
workers: 1
redis: ${{STORE}}
backends: {{a: {{schema: openai, base_url: "http://127.0.0.1:9/v1", location: cloud, api_key: sk-key-of-a}}}}
chains: {{cloud: [a/x]}}
models: {{auto: cloud}}
money: {{store_down: {store_down}}}
"""


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """A store behind TLS with one user, who has just a worker's rights."""
    own = Secure("valkey", tmp_path_factory.mktemp("tls"), WORKER)
    yield own
    own.remove()


@pytest.fixture
def plain() -> Iterator[Server]:
    """A store of its own."""
    own = Server("valkey")
    yield own
    own.remove()


def evict(store: Server) -> None:
    """Let the store forget keys when its memory is full."""
    asyncio.run(tell(store.url, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru"))


def gateway(folder: Path, store_down: str = "deny") -> Path:
    """A gateway.yaml on free ports, whose store is in the environment."""
    path = folder / "gateway.yaml"
    path.write_text(GATEWAY.format(listen=free_port(), admin=free_port(), envoy=free_port(), store_down=store_down))
    return path


def words(command: str, config: Path) -> list[str]:
    """The command line."""
    folder = config.parent
    more = {"up": ["-c", str(config), "--state", str(folder / "state")], "check": [str(config)],
            "serve": ["-c", str(config), "--state", str(folder / "state"), "--sockets", str(folder / "s")]}
    return [sys.executable, "-m", "extproc.cli", command, *more[command]]


def environment(url: str) -> dict[str, str]:
    """The variables of a command whose store is at that address."""
    return {**{k: v for k, v in os.environ.items() if not k.endswith("_API_KEY") and k != "REDIS_URL"}, "STORE": url}


def refused(command: str, config: Path, url: str) -> str:
    """Run a command that must end soon; return its one line."""
    began = time.monotonic()
    done = subprocess.run(words(command, config), capture_output=True, text=True, timeout=60, env=environment(url))
    assert time.monotonic() - began < DEADLINE
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("extproc: the store")
    assert not any(secret in done.stderr for secret in SECRETS)
    return done.stderr


CASES = {
    "wrong password": ("gateway:wr0ng@", "?ca={ca}", "lets nobody in", "WRONGPASS"),
    "wrong authority": (f"gateway:{ENCODED}@", "?ca={other}", "lets nobody in", "certificate is not trusted"),
    "no such file": (f"gateway:{ENCODED}@", "?ca=/no/such.pem", "address cannot be used", "/no/such.pem"),
    "misspelt option": (f"gateway:{ENCODED}@", "?cafile=x", "address cannot be used", "?cafile= is unknown"),
}


@pytest.mark.parametrize("command", ["serve", "up", "check"])
@pytest.mark.parametrize("case", CASES)
def test_refused_at_the_start(secure: Secure, tmp_path: Path, case: str, command: str) -> None:
    """A store that lets nobody in ends `serve`, `up` and `check` at once, in one line that says why."""
    user, query, *says = CASES[case]
    told = refused(command, gateway(tmp_path), secure.url(user, query.format(ca=secure.ca, other=secure.other)))
    assert all(text in told for text in says), told


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_missing_right_is_named(secure: Secure, tmp_path: Path, command: str) -> None:
    """A user without one of the rights, or without the keys, is refused by what is missing."""
    secure.tell("ACL", "SETUSER", "gateway", "-xadd")
    try:
        assert "lacks rights: xadd" in refused(command, gateway(tmp_path), secure.url())
    finally:
        secure.tell("ACL", "SETUSER", "gateway", "+xadd")


@pytest.mark.parametrize("command", ["serve", "up", "check"])
def test_eviction_is_refused(plain: Server, tmp_path: Path, command: str) -> None:
    """A store that may evict keys would forget what was spent: nothing starts on it."""
    evict(plain)
    assert "noeviction" in refused(command, gateway(tmp_path), plain.url)


def test_a_frozen_store_is_no_hang(plain: Server, tmp_path: Path) -> None:
    """`check` of a store that takes connections and says nothing ends, and says that nothing was checked."""
    plain.signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        done = subprocess.run(words("check", gateway(tmp_path)), capture_output=True, text=True, timeout=60,
                              env=environment(plain.url))
    finally:
        plain.signal(signal.SIGCONT)
    assert time.monotonic() - began < DEADLINE
    assert (done.returncode, "does not answer" in done.stderr, "was not checked" in done.stderr) == (0, True, True)
    assert ": ok: 1 backends" in done.stdout


def test_a_good_store_is_checked(secure: Secure, tmp_path: Path) -> None:
    """`check` says nothing of a store on which money can rest."""
    done = subprocess.run(words("check", gateway(tmp_path)), capture_output=True, text=True, timeout=60,
                          env=environment(secure.url()))
    assert (done.returncode, done.stderr) == (0, "")


@contextlib.contextmanager
def serving(folder: Path, url: str, store_down: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A running `serve`, and its log."""
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(words("serve", gateway(folder, store_down)), stdout=out, stderr=out,
                                   env=environment(url))
    try:
        yield process, log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def until(log: Path, text: str, seconds: float = 20) -> str:
    """Wait for a text in a log."""
    deadline = time.monotonic() + seconds
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return log.read_text()


@pytest.mark.parametrize(("store_down", "says"), [
    ("deny", "requests are refused with 503"), ("allow", "requests go on without it"),
])
def test_a_store_that_is_away(plain: Server, tmp_path: Path, store_down: str, says: str) -> None:
    """`serve` starts without its store, says what becomes of requests, and goes on when the store is there and well."""
    plain.kill()
    with serving(tmp_path, plain.url, store_down) as (process, log):
        told = until(log, "ready")
        assert "does not answer" in told
        assert says in told
        plain.start()
        time.sleep(module.AGAIN + 1)
        assert process.poll() is None
    assert process.returncode == 0


def test_a_store_that_comes_and_cannot_be_used(plain: Server, tmp_path: Path) -> None:
    """What would have been refused at the start ends the gateway when the store turns up later, in the same line."""
    plain.kill()
    with serving(tmp_path, plain.url, "deny") as (process, log):
        until(log, "ready")
        plain.start()
        evict(plain)
        assert process.wait(module.AGAIN + 20) == 1
        assert "noeviction" in log.read_text().splitlines()[-1]


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found += _family(int(entry.name))
    return found


def test_no_secret_is_in_a_command_line(_upstream, secure: Secure) -> None:
    """Neither the store's password nor a provider's key is in the command line of any process; files with keys are
    their owner's alone."""
    template = CONFIG.replace("redis: {store}", f'redis: "{secure.url()}"')
    with running(_upstream, template=template) as plane:
        _upstream.reset()
        _upstream.always["oa0"] = up.openai_json()
        assert plane.chat("oa").status == 200
        family = _family(plane.process.pid)
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0") for pid in family]
        assert len(lines) == 4, "the supervisor, Envoy and two workers"
        assert [line for line in lines if any(secret in word for word in line for secret in SECRETS)] == []
        [config] = {Path(word) for line in lines for word in line if word.endswith("/gateway.yaml") and
                    "extproc.server.worker" in line}
        assert config.parent.stat().st_mode & 0o777 == 0o700
        files = [path for path in config.parent.rglob("*") if path.is_file() and path.name != "detected.json"]
        assert {"gateway.yaml", "envoy.json", "cds.json", "rds.json"} <= {path.name for path in files}
        assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {
            path.name: "0o600" for path in files}
        assert "sk-key-of-" in config.read_text()
        assert all(secret not in plane.log.read_text() for secret in SECRETS)
        for log in (plane.state / "gateway-0" / "logs").iterdir():
            assert not any(secret in log.read_text(errors="replace") for secret in SECRETS), log.name
