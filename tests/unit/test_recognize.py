"""Local servers are asked what they speak: once per address, and again only when told to."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.config import parse
from extproc.runtime import Detected
from extproc.up import detected, recognize

CONFIG = """
backends:
  a: {{schema: openai, base_url: "{a}", location: local}}
  b: {{dialect: vllm, base_url: "http://127.0.0.1:2/v1", location: local}}
  c: {{schema: openai, base_url: "http://127.0.0.1:3/v1", location: cloud}}
chains: {{cloud: [a/m], local: [a/m]}}
"""


def config(url: str = "http://127.0.0.1:1/v1"):
    """A configuration with one local server that names no dialect."""
    return parse(CONFIG.format(a=url), "t", Path())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were asked; port 1 answers from the second time on, port 9 at once."""
    seen: list[str] = []

    async def detect(url: str, _key: str | None) -> Detected | None:
        seen.append(url)
        return Detected("llamacpp") if ":9/" in url or seen.count(url) > 1 else None

    monkeypatch.setattr(recognize, "detect", detect)
    return seen


async def test_only_unnamed_local_servers_are_asked(asked: list[str]) -> None:
    """A cloud, and a server whose dialect the file names, are not asked."""
    assert await recognize.Recognizer().recognize(config()) == {}
    assert asked == ["http://127.0.0.1:1/v1"]


async def test_a_silent_server_is_asked_again_only_when_told(asked: list[str]) -> None:
    """A reload does not wait for a server that did not answer; the watch finds it when it is up."""
    recognizer = recognize.Recognizer()
    await recognizer.recognize(config())
    assert await recognizer.recognize(config()) == {}
    assert len(asked) == 1
    assert await recognizer.recognize(config(), again=True) == {"a": Detected("llamacpp")}
    assert await recognizer.recognize(config()) == {"a": Detected("llamacpp")}
    assert len(asked) == 2


async def test_another_address_is_another_server(asked: list[str]) -> None:
    """What one server said is not believed of the next one under the same name."""
    recognizer = recognize.Recognizer()
    await recognizer.recognize(config())
    assert await recognizer.recognize(config("http://127.0.0.1:9/v1")) == {"a": Detected("llamacpp")}
    assert asked[-1] == "http://127.0.0.1:9/v1"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Workers read what the supervisor wrote beside their configuration; without a file there is nothing."""
    told = {"a": Detected("ollama", {"m": 8192}, ("m",))}
    assert detected.read(tmp_path / "gateway.yaml") == {}
    detected.write(tmp_path, told)
    assert detected.read(tmp_path / "gateway.yaml") == told
