"""Tools between a client and a provider with other rules: what leaves, and what the client gets back."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.conversation import (
    Conversation,
    Done,
    Event,
    Failure,
    Message,
    Stop,
    Text,
    TextDelta,
    Tool,
    ToolChoice,
    ToolDelta,
    ToolResult,
    ToolStart,
    ToolUse,
)
from extproc.core.toolbox import Called, Restorer, Rules, fit, fit_id, raw_input

PATCH = Tool("apply_patch", "Patches files.", kind="custom", format={"type": "grammar", "definition": "start: x"})
SEARCH = Tool("search", "Searches.", {"type": "object"}, namespace="web")
PLAIN = Tool("read", "Reads.", {"type": "object"})


def asking(*tools: Tool, parts: tuple[ToolUse | ToolResult, ...] = (), choice: ToolChoice | None = None) -> Conversation:
    """A conversation with these tools, and a turn with these parts."""
    messages = (Message("user", (Text("go"),)), *(Message("assistant", (part,)) for part in parts))
    return Conversation(model="m", messages=messages, tools=tools, tool_choice=choice)


def restored(recall: dict[str, Called], *events: Event) -> list[Event]:
    """The events after the restorer."""
    restorer = Restorer(recall)
    return [out for event in events for out in restorer.feed(event)]


def test_what_fits_stays_the_same_object() -> None:
    """A conversation that a provider can take as it is is not copied, and nothing is to be restored."""
    conversation = asking(PLAIN, parts=(ToolUse("call_1", "read", "{}"),))
    fitted, recall = fit(conversation, Rules())
    assert fitted is conversation
    assert recall == {}


def test_custom_tool_becomes_a_function_and_comes_back() -> None:
    """A freeform tool leaves as a function with one text argument; the call comes back with its raw text."""
    fitted, recall = fit(asking(PATCH), Rules())
    (tool,) = fitted.tools
    assert tool.kind == "function"
    assert tool.parameters["required"] == ["input"]
    assert "start: x" in (tool.description or "")
    out = restored(dict(recall), ToolStart(0, "c1", "apply_patch"), ToolDelta(0, '{"inp'), ToolDelta(0, 'ut":"a\\nb"}'),
                   Stop("tool_use"), Done())
    assert out == [ToolStart(0, "c1", "apply_patch", "custom"), ToolDelta(0, "a\nb"), Stop("tool_use"), Done()]


def test_custom_call_in_history_becomes_the_function_call() -> None:
    """An earlier freeform call leaves as the call of the function that stands for it."""
    fitted, _ = fit(asking(PATCH, parts=(ToolUse("c1", "apply_patch", 'say "hi"', kind="custom"),)), Rules())
    (use,) = fitted.messages[1].parts
    assert isinstance(use, ToolUse)
    assert use.kind == "function"
    assert msgspec.json.decode(use.arguments) == {"input": 'say "hi"'}


def test_provider_with_custom_tools_gets_them() -> None:
    """Where freeform tools are known they stay what they are."""
    conversation = asking(PATCH)
    assert fit(conversation, Rules(custom=True)) == (conversation, {})


def test_namespace_goes_into_the_name_and_comes_back() -> None:
    """A tool of a namespace leaves under a flat name, in tools, choice and history, and comes back whole."""
    fitted, recall = fit(asking(SEARCH, parts=(ToolUse("c1", "search", "{}", namespace="web"),),
                                choice=ToolChoice("tool", "search")), Rules())
    (use,) = fitted.messages[1].parts
    assert isinstance(use, ToolUse)
    assert fitted.tools[0].name == use.name == "web__search"
    assert fitted.tool_choice == ToolChoice("tool", "web__search")
    assert restored(dict(recall), ToolStart(0, "c2", "web__search")) == [
        ToolStart(0, "c2", "search", "function", "web")]


def test_long_names_are_cut_with_a_hash() -> None:
    """Two names that agree in their first 64 characters stay two, the same in each turn, and come back whole."""
    first, second = "a" * 70 + "1", "a" * 70 + "2"
    fitted, recall = fit(asking(Tool(first), Tool(second), parts=(ToolUse("c", first, "{}"),)), Rules())
    names = [tool.name for tool in fitted.tools]
    (use,) = fitted.messages[1].parts
    assert isinstance(use, ToolUse)
    assert len(set(names)) == 2
    assert all(len(name) <= 64 for name in names)
    assert use.name == names[0]
    assert [recall[name].name for name in names] == [first, second]


def test_foreign_tool_is_left_alone() -> None:
    """A provider-typed tool is its own schema's business."""
    tool = Tool("web_search", foreign={"type": "web_search_20260209"}, schema="anthropic")
    assert fit(asking(tool), Rules())[1] == {}


def test_ids_of_nine_characters() -> None:
    """Where ids must have nine letters or digits, call and result agree, and such ids stay."""
    rules = Rules(id_exact=9)
    fitted, _ = fit(asking(PLAIN, parts=(ToolUse("toolu_01A", "read", "{}"), ToolResult("toolu_01A", ()))), rules)
    use, result = fitted.messages[1].parts[0], fitted.messages[2].parts[0]
    assert isinstance(use, ToolUse)
    assert isinstance(result, ToolResult)
    assert use.id == result.id
    assert len(use.id) == 9
    assert use.id.isalnum()
    assert fit_id("abcDEF123", rules) == "abcDEF123"


@given(st.text(max_size=100))
def test_any_id_fits(identifier: str) -> None:
    """Whatever a client calls a call, the provider gets an id of its form, and the same id for the same one."""
    for rules in (Rules(), Rules(id_limit=40), Rules(id_exact=9)):
        fitted = fit_id(identifier, rules)
        assert fitted == fit_id(identifier, rules)
        assert fitted == fit_id(fitted, rules)
        assert len(fitted) == 9 if rules.id_exact else 0 < len(fitted) <= rules.id_limit


@pytest.mark.parametrize(("arguments", "meant"), [
    ('{"input": "x"}', "x"), ('{"patch": "x"}', "x"), ('"x"', "x"), ("*** Begin Patch", "*** Begin Patch"),
    ('{"input": 3}', '{"input": 3}'), ("", ""), ("[" * 5000, "[" * 5000),
])
def test_raw_input(arguments: str, meant: str) -> None:
    """What a model put into the argument is the tool's text, also when it named it wrongly or wrote it bare."""
    assert raw_input(arguments) == meant


def test_failure_ends_a_custom_call() -> None:
    """When the answer fails inside a freeform call, its piece is not made up into a whole one."""
    failure = Failure("upstream", "broke")
    out = restored({"p": Called("p", "custom")}, ToolStart(0, "c", "p"), ToolDelta(0, '{"inp'), failure)
    assert out == [ToolStart(0, "c", "p", "custom"), failure]


def test_text_passes() -> None:
    """What is no tool call is not touched."""
    assert restored({"p": Called("p", "custom")}, TextDelta("hi")) == [TextDelta("hi")]
