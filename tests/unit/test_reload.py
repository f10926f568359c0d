"""A configuration that changes while the gateway runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from extproc.up.effective import Effective
from extproc.up.reload import Reload
from extproc.up.workers import Workers

TEXT = """\
backends: {a: {base_url: "https://api.anthropic.com", dialect: anthropic, location: cloud, api_key: k}}
chains: {c: [a/claude-sonnet-5]}
models: {auto: c}
"""


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not reached():
            await asyncio.sleep(0.02)


async def test_unreadable_then_good(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is no text, or no configuration, is refused in the log, and the next good one is taken all the same."""
    path, run = tmp_path / "gateway.yaml", tmp_path / "run"
    run.mkdir()
    effective = Effective(run, TEXT, str(path), tmp_path, 0)
    path.write_text(TEXT)
    watching = asyncio.create_task(Reload(effective, Workers(effective.config, run), None).watch_file(path))
    try:
        path.write_bytes(b"# \xff")
        await until(lambda: "is not UTF-8 text" in caplog.text)
        path.write_text("chains: {")
        await until(lambda: "not valid YAML" in caplog.text)
        assert effective.text == TEXT
        path.write_text(TEXT + "# more\n")
        await until(lambda: effective.path.is_file() and effective.path.read_text() == TEXT + "# more\n")
    finally:
        watching.cancel()
