"""Stand-in clouds: one llmock process answers as OpenAI and as Anthropic, and fails on demand.

llmock (PyPI, MIT) is somebody else's model of the providers: a fairer counterpart than one of ours.
What it lacks beside the real ones, and how to make it fail, is in docs/demo.md.
"""

from __future__ import annotations

import sys

HOST = "127.0.0.1"
CHUNK_DELAY_MS = 30
"""Between two streamed words: slow enough to watch, and near the pace of a real model."""


def command(port: int) -> list[str]:
    """Return the argv that runs one stand-in on loopback; it needs the demo extra."""
    return [
        sys.executable, "-m", "llmock.cli", "serve",
        "--host", HOST, "--port", str(port),
        "--response-style", "varied",
        "--stream-chunk-delay-ms", str(CHUNK_DELAY_MS),
        "--log-level", "warning",
    ]  # fmt: skip


def openai_url(port: int) -> str:
    """Base URL of the OpenAI API of the stand-in at `port`."""
    return f"http://{HOST}:{port}/v1"


def anthropic_url(port: int) -> str:
    """Base URL of the Anthropic API (the SDKs and our backends add /v1/messages)."""
    return f"http://{HOST}:{port}/anthropic"


def scenario_url(port: int) -> str:
    """Where to POST what the next requests shall suffer."""
    return f"http://{HOST}:{port}/_llmock/scenario"
