"""Properties of the repair of leaked tool calls over generated answers."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.core.conversation import Done, Event, Start, Stop, TextDelta, Tool, ToolDelta, ToolStart
from extproc.core.repair import ToolCallRepair

TOOLS = (
    Tool(name="Bash", parameters={"properties": {"command": {"type": "string"}, "n": {"type": "integer"}},
                                  "required": ["command", "n"]}),
    Tool(name="B"),
)
FRAGMENTS = st.sampled_from([
    "<", ">", "</", "=", "`", "```", "\n", " ", "a", "{", "}", '"', "\\", "tool_call", "function=", "parameter=",
    "<tool_call>", "</tool_call>", "<function=", "</function>", "<parameter=", "</parameter>", "<function=Bash>",
    "<function=B>", "<function=rm>", "<parameter=command>", "<parameter=n>", "\n<parameter=n>\n", "```\n", "\n```\n", "5",
    '{"name":"B"}', '{"name":"Bash","arguments":', '{"name":"rm","arguments":{}}', "<function=B></function>",
    "<tool_call>\n<function=Bash>\n<parameter=command>\nls\n</parameter>\n</function>\n</tool_call>",
])
ANSWERS = st.lists(FRAGMENTS | st.text(max_size=3), max_size=30).map("".join)
REASONS: st.SearchStrategy[Any] = st.sampled_from(["end", "length", "tool_use", "stop_sequence", "filtered"])


def run(pieces: list[str], reason: Any, tools: tuple[Tool, ...] = TOOLS) -> list[Event]:
    """What comes out for an answer in these pieces."""
    repair = ToolCallRepair(tools)
    events = [Start(id="a"), *(TextDelta(text=piece) for piece in pieces), Stop(reason=reason), Done()]
    out = [e for event in events for e in repair.feed(event)]
    assert repair.repaired == sum(isinstance(e, ToolStart) for e in out)
    return out


def joined(events: list[Event]) -> list[Event]:
    """The events with neighbouring texts made one: all that a cut may change."""
    out: list[Event] = []
    for event in events:
        if isinstance(event, TextDelta) and out and isinstance(last := out[-1], TextDelta):
            out[-1] = TextDelta(text=last.text + event.text)
        elif not isinstance(event, TextDelta) or event.text:
            out.append(event)
    return out


@st.composite
def cut(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> tuple[str, list[str]]:
    """A text, and the same text in pieces."""
    text = draw(texts)
    at = sorted(draw(st.sets(st.integers(0, len(text)), max_size=12)))
    return text, [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]


@settings(deadline=None, max_examples=500)
@given(cut(ANSWERS), REASONS)
def test_cuts_do_not_matter(answer: tuple[str, list[str]], reason: str) -> None:
    """However a text is cut, also by the letter, the same text, calls and stop come out."""
    text, pieces = answer
    whole = joined(run([text], reason))
    assert whole == joined(run(pieces, reason))
    assert whole == joined(run(list(text), reason))


@settings(deadline=None, max_examples=500)
@given(cut(ANSWERS), REASONS)
def test_text_without_known_calls_is_untouched(answer: tuple[str, list[str]], reason: str) -> None:
    """No tool of that name: all events come out as they went in, but for the cuts."""
    text, pieces = answer
    out = run(pieces, reason, (Tool(name="Bas"), Tool(name="Bash_")))
    expected = [Start(id="a"), *([TextDelta(text=text)] if text else []), Stop(reason=reason), Done()]
    assert expected == joined(out)


@settings(deadline=None, max_examples=300)
@given(ANSWERS, REASONS)
def test_order(text: str, reason: str) -> None:
    """Each call starts once, its arguments follow, and nothing comes after the stop and the end."""
    out = run([text], reason)
    assert [Stop, Done] == [type(e) for e in out[-2:]]
    calls = [e for e in out if isinstance(e, ToolStart | ToolDelta)]
    assert all(isinstance(a, ToolStart) and isinstance(b, ToolDelta) and a.index == b.index == i
               for i, (a, b) in enumerate(zip(calls[::2], calls[1::2], strict=True)))


@settings(deadline=None, max_examples=300)
@given(cut(st.text(st.sampled_from("<>/=`\n ab") | st.characters(codec="utf-8"), max_size=60)), st.integers(0, 1 << 40))
def test_a_written_call_is_read_back(value: tuple[str, list[str]], number: int) -> None:
    """A call as the template writes it comes back with its values to the byte."""
    text = (f"<tool_call>\n<function=Bash>\n<parameter=command>\n{value[0]}\n</parameter>\n"
            f"<parameter=n>\n{number}\n</parameter>\n</function>\n</tool_call>")
    start, call, arguments, *_ = run(list(text), "end")
    assert isinstance(start, Start)
    assert isinstance(call, ToolStart)
    assert isinstance(arguments, ToolDelta)
    assert {"command": value[0], "n": number} == json.loads(arguments.arguments)
