"""The screen of `extproc up`: what a newcomer copies works, and it fits 80 columns."""

from __future__ import annotations

import asyncio
import shlex
import socket
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from extproc.config import parse
from extproc.up import discovery, ready
from extproc.up.screen import WIDTH, render

DEMO = [
    discovery.Found("demo-claude", "anthropic", "http://127.0.0.1:10100/anthropic", "cloud", "claude-sonnet-5",
                    "demo-key", "anthropic", "demo stand-in, not a real cloud"),
    discovery.Found("demo-gpt", "openai", "http://127.0.0.1:10101/v1", "cloud", "gpt-5.6", "demo-key", "openai",
                    "demo stand-in, not a real cloud"),
    discovery.Found("demo-qwen", "llamacpp", "http://127.0.0.1:10102/v1", "local", "tiny-qwen3",
                    note="demo: llama.cpp with a tiny fixed-answer model"),
]
KEYS = """\
backends: {qwen: {dialect: ollama, base_url: "http://127.0.0.1:11434", location: local}}
chains: {only: [qwen/qwen3]}
models: {"gpt-*": only}
auth: {mode: keys}
"""


def shown(text: str, silent: Collection[str] = ()) -> list[str]:
    """The lines of the screen of a gateway with this configuration."""
    config = parse(text, "g.yaml", Path(), {"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k"})
    gateway: Any = SimpleNamespace(
        listen="127.0.0.1:10000", admin="127.0.0.1:10001", admin_grpc="127.0.0.1:10002", envoy_admin="127.0.0.1:9901",
        config=config, dialects={name: backend.dialect for name, backend in config.backends.items()},
        redis_note="embedded Valkey, data in /s/gateway-0/data", redis_url="unix:///s", sockets=("a", "b"),
        logs=Path("/s/gateway-0/logs"))
    return render(gateway, 1.5, silent).split("\n")


@pytest.mark.parametrize("found", [DEMO, discovery.clouds({"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k"})])
def test_fits_a_terminal(found):
    """No line is longer than 80 columns, with the demo and with clouds whose keys were found."""
    assert [line for line in shown(discovery.configuration(found)) if len(line) > WIDTH] == []


def test_notes_and_chains_are_whole():
    """What does not fit goes to the next line; nothing is left out or broken inside a word."""
    text = " ".join(" ".join(shown(discovery.configuration(DEMO))).split())
    assert "http://127.0.0.1:10100/anthropic (demo stand-in, not a real cloud)" in text
    assert "cloud demo-claude/claude-sonnet-5 > demo-gpt/gpt-5.6 > demo-qwen/tiny-qwen3" in text


def test_what_to_try_is_one_command():
    """The command to try is one for the shell, and asks for a model that there is."""
    lines = shown(discovery.configuration(DEMO))
    first = next(index for index, line in enumerate(lines) if line.startswith("  try"))
    words = shlex.split("\n".join(lines[first: first + 3]))
    assert words[1:4] == ["curl", "-i", "http://127.0.0.1:10000/v1/chat/completions"]
    assert words[-1] == '{"model":"auto","messages":[{"role":"user","content":"hi"}]}'


def test_what_was_copied_is_no_providers_key():
    """A gateway started in a shell with the exports of an earlier screen does not take their key for a provider's."""
    exports = [line.split() for line in shown(discovery.configuration(DEMO)) if line.startswith("    export")]
    env = dict(word.split("=", 1) for words in exports for word in words[1:])
    assert set(env) == {"OPENAI_BASE_URL", "OPENAI_API_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"}
    assert discovery.clouds(env) == []
    assert [found.name for found in discovery.clouds(env | {"OPENAI_API_KEY": "sk-1", "DEEPSEEK_API_KEY": ""})] == ["gpt"]


def test_keys_are_asked_for():
    """A gateway that asks for keys shows how to make one and where it goes; a model that it lacks is not named."""
    lines = "\n".join(shown(KEYS))
    assert "extproc keys create --name NAME" in lines
    assert "-H 'authorization: Bearer YOUR-KEY' \\" in lines
    assert '{"model":"only"' in lines
    assert "auto" not in lines


def test_a_local_server_that_is_away_is_marked():
    """A local backend where nothing listens is marked, one that listens is not, and no cloud is asked."""
    with socket.create_server(("127.0.0.1", 0)) as there, socket.socket() as away:
        away.bind(("127.0.0.1", 0))
        config = parse(f"""\
backends:
  cloud: {{dialect: openai, base_url: "http://127.0.0.1:{away.getsockname()[1]}/v1", location: cloud}}
  there: {{dialect: ollama, base_url: "http://127.0.0.1:{there.getsockname()[1]}", location: local}}
  away: {{dialect: ollama, base_url: "http://127.0.0.1:{away.getsockname()[1]}", location: local}}
chains: {{only: [there/x]}}
""", "g.yaml", Path())
        assert asyncio.run(ready.silent(config)) == {"away"}
    lines = shown(KEYS, {"qwen"})
    marked = lines.index(" " * 17 + "(nothing answers there yet)")
    assert lines[marked - 1].split() == ["qwen", "local", "ollama", "http://127.0.0.1:11434"]
    assert "nothing answers" not in "".join(shown(KEYS))
