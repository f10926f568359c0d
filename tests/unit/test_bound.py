"""The most that odd requests can cost: server tools, packed files, hidden names, and what has no price by token."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from extproc.core.asking import asked
from extproc.core.bound import SERVER_TOOL_USES, bound_of, unpriced
from extproc.core.errors import RequestError
from extproc.runtime import Runtime
from extproc.schemas import CLIENTS
from tests.stage_kit import ADMISSION, body, runtime

PRICES = """
backends:
  claude: {schema: anthropic, base_url: https://api.anthropic.com, location: cloud, api_key: k,
           models: {c: {usd_per_million_input: 3, usd_per_million_output: 15, context: 200000},
                    f: {usd_per_million_input: 3, usd_per_million_output: 15, factors: {fast: 2, us: 1.1}}}}
  gpt: {schema: openai, base_url: https://api.openai.com/v1, location: cloud, api_key: k,
        models: {g: {usd_per_million_input: 3, usd_per_million_output: 15},
                 f: {usd_per_million_input: 3, usd_per_million_output: 15, factors: {priority: 2}}}}
  qwen: {schema: openai, base_url: "http://127.0.0.1:11434/v1", location: local}
chains:
  cloud: [claude/c, qwen/q]
  anthropic: [claude/c]
  openai: [gpt/g]
  priced: [claude/f, gpt/f]
  mixed: [claude/c, gpt/f]
  local: [qwen/q]
budgets: [{for: {org: o}, usd: 10, per: month}]
"""


def made(extra: str = "") -> Runtime:
    """A gateway with prices and a dollar budget."""
    return runtime(extra, PRICES)


def passes(schema: str, **fields: Any) -> int:
    """How often a request of that schema may have the context billed."""
    asked = {"input": "hi"} if schema == "responses" else {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    raw = msgspec.json.encode({"model": "m", **asked, **fields})
    return bound_of(CLIENTS[schema].parse_request(raw), raw).passes


def test_every_use_of_a_server_tool_counts() -> None:
    """Uses of several tools add up, however many are allowed; one that does not say counts as some; a limit over all
    calls bounds them together."""
    search, fetch = ({"type": f"web_{what}_2026", "name": f"web_{what}"} for what in ("search", "fetch"))
    assert passes("anthropic", tools=[search | {"max_uses": 10}, fetch | {"max_uses": 10}]) == 21
    assert passes("anthropic", tools=[search | {"max_uses": 5000}]) == 5001
    assert passes("anthropic", tools=[search | {"max_uses": 10}, fetch]) == 10 + SERVER_TOOL_USES + 1
    assert passes("responses", tools=[{"type": "web_search"}]) == SERVER_TOOL_USES + 1
    assert [passes("responses", tools=[{"type": "web_search"}], max_tool_calls=calls) for calls in (1, 50)] == [2, 51]
    assert passes("openai", web_search_options={}) == 1


def test_packed_files_fill_the_context() -> None:
    """The pages and the text of a PDF are not told by its bytes; those of a text are."""
    def document(kind: str, data: str, media: str) -> int:
        source = {"type": kind, "media_type": media, "data": data}
        return passes("anthropic", messages=[{"role": "user", "content": [{"type": "document", "source": source}]}])

    assert [document("base64", "JVBERi0=", "application/pdf"), document("text", "hello", "text/plain")] == [1, 0]


@pytest.mark.parametrize(("name", "field"), [("cache_control", "caching"), ("prediction", "predicted")])
def test_names_behind_escapes_count(name: str, field: str) -> None:
    """A name that is written with an escape costs what it costs; an escaped accent or bracket hides nothing."""
    raw = body(messages=[{"role": "user", "content": "é <b>"}], **{name: {"type": "content", "content": "x"}})
    for hidden in (name, name[:4] + f"\\u{ord(name[4]):04x}" + name[5:], f"\\u{ord(name[0]):04X}" + name[1:]):
        text = raw.replace(name.encode(), hidden.encode())
        assert getattr(bound_of(CLIENTS["openai"].parse_request(text), text), field), text
    plain = b'{"model":"m","messages":[{"role":"user","content":"\\u00e9 \\u003cb\\u003e \\u2028"}]}'
    assert not getattr(bound_of(CLIENTS["openai"].parse_request(plain), plain), field)


@pytest.mark.parametrize(("schema", "fields", "named"), [
    ("openai", {"service_tier": "priority"}, "service_tier"), ("openai", {"service_tier": "flex"}, ""),
    ("anthropic", {"speed": "fast"}, "speed"), ("anthropic", {"inference_geo": "us"}, "inference_geo"),
    ("openai", {"modalities": ["text", "audio"], "audio": {"voice": "a", "format": "wav"}}, "audio"),
])
def test_what_prices_do_not_cover_is_refused(schema: str, fields: dict[str, Any], named: str) -> None:
    """Under a dollar budget nobody asks a provider for what has no price; with a factor for it, without a budget, at a
    backend that costs nothing or is not told of it, everybody may."""
    raw = msgspec.json.encode({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **fields})
    conversation = CLIENTS[schema].parse_request(raw)
    [backend] = made().chains[schema].backends
    assert unpriced(conversation, backend) == ((named,) if named else ())

    def ask(rt: Runtime, chain: str) -> Any:
        decision: Any = SimpleNamespace(chain=rt.chains[chain], model="m")
        return asked(rt, decision, ADMISSION, conversation, raw, 10)

    if named:
        with pytest.raises(RequestError, match=f"{named}: what this costs at .* is unknown") as refused:
            ask(made(), schema)
        assert refused.value.problem.kind == "quota"
    else:
        assert ask(made(), schema)
    if named != "audio":
        assert ask(made(), "priced")
        assert ask(made(), "openai" if schema == "anthropic" else "anthropic")
        assert [one.id for one in ask(made(), "mixed").chain.backends] == (
            ["claude/c", "gpt/f"] if schema == "openai" else ["gpt/f"]) if named else True
    assert ask(made(), "local")
    assert ask(made("money: {unknown_price: allow}\n"), schema)
