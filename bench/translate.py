"""The codecs alone: what a translation costs, for every pair of schemas that some dialect needs.

    python -m bench.translate        prints microseconds of CPU per request, per stream event, and per passed request

A request is an agent's, of about 100 kB: 30 tools and 40 messages, made from a captured one. `request` is parsing it in
the client's schema and rendering it for the provider, encoding included; `event` is decoding, parsing and rendering one
event of an answer; `patch` is what a request in the provider's own schema costs instead.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from extproc.core import conversation as c
from extproc.core.usage import Tokens
from extproc.dialects import DIALECTS
from extproc.dialects.base import Dialect, Notes
from extproc.schemas import CLIENTS, PROVIDERS, SCHEMAS
from extproc.schemas.base import Target

CAPTURE = (Path(__file__).parent.parent / "tests" / "data" / "captures"
           / "claude-code-shape.interactive.004.messages-turn2-tool_result.json")
SIZE = 100_000
TOOLS, MESSAGES, DELTAS = 30, 40, 400
PROMPTS = ("completions", "fim")
PASSED = ("embeddings", "count_tokens")
TARGET = Target("target-model", 64_000)


def agent() -> c.Conversation:
    """An agent's conversation whose JSON is about 100 kB."""
    captured = json.loads(CAPTURE.read_text("utf-8"))["body"]
    base = SCHEMAS["anthropic"].parse_request(json.dumps(captured).encode())
    tools = [msgspec.structs.replace(tool, description=(tool.description or "")[:800], name=f"{tool.name}_{i}")
             for i, tool in enumerate((base.tools * 2)[:TOOLS])]
    told = len(msgspec.json.encode([*tools, base.messages[0]]))
    text = 'Read "this",\n then say what is missing. ' * 200
    each = max(200, (SIZE - told) // MESSAGES)
    turns: list[c.Message] = []
    for i in range(MESSAGES // 2):
        use = c.ToolUse(f"toolu_{i:024d}", tools[i].name, json.dumps({"path": text[:each // 3], "lines": [1, 2, i]}))
        turns += [c.Message("assistant", (c.Text(text[: each * 2 // 3]), use)),
                  c.Message("user", (c.ToolResult(use.id, (c.Text(text[:each]),)),))]
    return msgspec.structs.replace(
        base, messages=(*base.messages[:1], *turns), tools=tuple(tools), thinking=None, thinking_display=None)


def request_of(client: str) -> bytes:
    """The request in a client's schema."""
    if client in PROMPTS:
        text = "def f(x):\n    return x + 1\n" * (SIZE // 27)
        return json.dumps({"model": "m", "prompt": text, "suffix": "\n", "max_tokens": 64}).encode()
    if client == "embeddings":
        return json.dumps({"model": "m", "input": "some text " * (SIZE // 10)}).encode()
    schema = "anthropic" if client == "count_tokens" else client
    fields = json.loads(PROVIDERS[schema].render_request(agent(), TARGET).body)
    if client == "count_tokens":
        del fields["max_tokens"]
    return json.dumps(fields).encode()


def answer() -> list[c.Event]:
    """Text, then a tool call, in small pieces."""
    texts = [c.TextDelta("word ") for _ in range(DELTAS)]
    pieces = [c.ToolDelta(0, piece) for piece in ['{"a": "', *["more "] * (DELTAS // 2), '"}']]
    return [c.Start("chatcmpl-1", "m"), *texts, c.ToolStart(0, "call_1", "tool"), *pieces,
            c.UsageReport(Tokens(9, 1, None, None, 5)), c.Stop("tool_use"), c.Done()]


def stream_of(provider: str) -> list[bytes]:
    """The provider's stream, event by event."""
    if provider in CLIENTS:
        renderer = CLIENTS[provider].stream_renderer(model="m", created=1, fallback_id="x", include_usage=True)
        return [data for event in answer() if (data := renderer.feed(event))]
    lines: list[dict[str, Any]] = [{"message": {"role": "assistant", "content": "word "}, "done": False}
                                   for _ in range(DELTAS)]
    lines.append({"message": {"content": ""}, "done": True, "done_reason": "stop", "eval_count": 5})
    return [json.dumps({"model": "m", **line}).encode() + b"\n" for line in lines]


def cost(work: Callable[[], object], seconds: float = 0.4) -> float:
    """Microseconds of CPU for one call: the best of several rounds."""
    work()
    best, until = float("inf"), time.process_time() + seconds
    while time.process_time() < until:
        start = time.process_time_ns()
        for _ in range(5):
            work()
        best = min(best, (time.process_time_ns() - start) / 5000)
    return best


def translate(client: str, provider: str, dialect: Dialect) -> Callable[[], bytes]:
    """The way of a request; a prompt is made a chat by the dialect when the provider only chats."""
    body = request_of(client)

    def work() -> bytes:
        conversation = CLIENTS[client].parse_request(body)
        if client in PROMPTS:
            conversation = dialect.fit(conversation, TARGET, Notes())
        return PROVIDERS[provider].render_request(conversation, TARGET).body

    return work


def replay(client: str, provider: str) -> tuple[Callable[[], None], int]:
    """The way of an answer's stream, and its events."""
    chunks = stream_of(provider)

    def work() -> None:
        decoder, parser = PROVIDERS[provider].stream_decoder(), PROVIDERS[provider].stream_parser()
        renderer = CLIENTS[client].stream_renderer(model="m", created=1, fallback_id="x", include_usage=True)
        for chunk in chunks:
            for raw in decoder.feed(chunk):
                for event in parser.feed(raw):
                    renderer.feed(event)

    return work, len(chunks)


def pairs() -> dict[tuple[str, str], Dialect]:
    """Client schema and provider schema, with a dialect that needs them."""
    found: dict[tuple[str, str], Dialect] = {}
    for dialect in DIALECTS.values():
        for client in CLIENTS:
            if (wire := dialect.wire(client)) is not None:
                found.setdefault((client, wire), dialect)
    return dict(sorted(found.items()))


def main() -> None:
    """Print the table."""
    print(f"{'client':<14}{'provider':<14}{'request µs':>12}{'event µs':>10}{'patch µs':>10}")
    for (client, provider), dialect in pairs().items():
        request = event = patch = "-"
        if client not in PASSED:
            request = f"{cost(translate(client, provider, dialect)):.0f}"
            work, events = replay(client, provider)
            event = f"{cost(work) / events:.1f}"
        if client == provider:
            body = request_of(client)
            patch = f"{cost(lambda body=body, schema=provider: PROVIDERS[schema].patch_request(body, TARGET)):.0f}"
        print(f"{client:<14}{provider:<14}{request:>12}{event:>10}{patch:>10}")


if __name__ == "__main__":
    main()
