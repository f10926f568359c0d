"""Leaked tool calls: what servers of local models really leave in the text, and what only looks like it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import pytest

from extproc.core import leaked_calls as module
from extproc.core.conversation import (
    Done,
    Event,
    Failure,
    Start,
    Stop,
    TextDelta,
    ThinkingDelta,
    Tool,
    ToolDelta,
    ToolStart,
    UsageReport,
)
from extproc.core.repair import ToolCallRepair
from extproc.core.usage import Tokens

TOOLS = (
    Tool(name="Bash", parameters={"type": "object", "properties": {
        "command": {"type": "string"}, "timeout": {"type": "integer"}}, "required": ["command"]}),
    Tool(name="Edit", parameters={"type": "object", "properties": {
        "path": {"type": "string"}, "old": {"type": "string"}, "new": {"type": "string"}},
        "required": ["path", "old", "new"]}),
    Tool(name="list_files"),
    Tool(name="raw", kind="custom"),
)

Calls = list[tuple[str, Any]]


def run(events: Iterable[Event], tools: tuple[Tool, ...] = TOOLS) -> list[Event]:
    """Everything that comes out for these events."""
    repair = ToolCallRepair(tools)
    return [out for event in events for out in repair.feed(event)]


def answer(text: str, reason: Any = "end", size: int = 0) -> list[Event]:
    """A whole answer with this text, in pieces of `size` characters."""
    size = size or max(1, len(text))
    pieces = [TextDelta(text=text[i:i + size]) for i in range(0, len(text), size)]
    return [Start(id="a1", model="m"), *pieces, Stop(reason=reason), Done()]


def text_of(events: Iterable[Event]) -> str:
    """All visible text."""
    return "".join(e.text for e in events if isinstance(e, TextDelta))


def calls_of(events: Iterable[Event]) -> Calls:
    """All calls in order of their indices, which must be contiguous."""
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for event in events:
        if isinstance(event, ToolStart):
            names[event.index], arguments[event.index] = event.name, ""
        elif isinstance(event, ToolDelta):
            arguments[event.index] += event.arguments
    assert list(names) == list(range(len(names)))
    return [(name, json.loads(arguments[index].encode())) for index, name in names.items()]


def reason_of(events: Iterable[Event]) -> str:
    """Why the answer stopped."""
    return next(e.reason for e in events if isinstance(e, Stop))


def xml(name: str, **values: str) -> str:
    """A call as Qwen3-Coder's template writes it, without the outer tag."""
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    return f"<function={name}>\n{inner}</function>"


LS = xml("Bash", command="ls")
WRAPPED = f"<tool_call>\n{LS}\n</tool_call>"
HERMES = '<tool_call>\n{"name": "Bash", "arguments": {"command": "ls"}}\n</tool_call>'
CALL = ("Bash", {"command": "ls"})

LEAKS: dict[str, tuple[str, str, Calls]] = {
    "whole_call_after_a_sentence": (f"I look.\n\n{WRAPPED}", "I look.\n\n", [CALL]),
    "opening_tag_lost_closing_tag_kept": (f"I look.\n\n{LS}\n</tool_call>", "I look.\n\n", [CALL]),
    "no_outer_tags": (LS, "", [CALL]),
    "all_on_one_line": ("<tool_call><function=Bash><parameter=command>ls</parameter></function></tool_call>", "", [CALL]),
    "white_space_all_around": (f"\n\n{WRAPPED}\n\n", "", [CALL]),
    "two_calls": (f"{WRAPPED}\n{WRAPPED}", "", [CALL, CALL]),
    "two_calls_with_lost_opening_tags": (f"{LS}\n</tool_call>\n{LS}\n</tool_call>\n", "", [CALL, CALL]),
    "two_functions_in_one_pair_of_tags": (f"<tool_call>\n{LS}\n{LS}\n</tool_call>", "", [CALL, CALL]),
    "text_between_calls": (f"{WRAPPED}\nand\n{WRAPPED}", "\nand\n", [CALL, CALL]),
    "text_after_a_call": (f"{WRAPPED}\n\nDone.", "\n\nDone.", [CALL]),
    "one_orphan_closing_tag_only": (f"{LS}</tool_call></tool_call>", "</tool_call>", [CALL]),
    "closing_tag_of_the_call_missing": (f"<tool_call>\n{LS}", "", [CALL]),
    "both_closing_tags_missing": ("<tool_call>\n<function=Bash>\n<parameter=command>\nls\n</parameter>\n", "", [CALL]),
    "cut_within_a_closing_tag": ("<function=Bash>\n<parameter=command>\nls\n</parameter>\n</func", "", [CALL]),
    "closing_tag_of_the_function_missing": (
        f"<tool_call><function=Bash><parameter=command>ls</parameter></tool_call>{WRAPPED}", "", [CALL, CALL]),
    "both_closing_tags_missing_before_the_next": (
        f"<function=Bash><parameter=command>ls</parameter>\n{LS}", "", [CALL, CALL]),
    "last_parameter_not_closed": (
        "<tool_call>\n<function=Bash>\n<parameter=command>\nls\n</function>\n</tool_call>", "", [CALL]),
    "last_parameter_not_closed_before_the_next": (
        f"<tool_call>\n<function=Bash>\n<parameter=command>\nls\n</function>\n</tool_call>\n{WRAPPED}", "", [CALL, CALL]),
    "a_middle_parameter_not_closed": (
        "<function=Edit>\n<parameter=path>\na\n<parameter=old>\nx\n</parameter>\n<parameter=new>\ny\n</parameter>\n</function>",
        "", [("Edit", {"path": "a", "old": "x", "new": "y"})]),
    "a_parameter_within_a_value_while_none_lacks": (
        xml("Edit", path="a", old="x\n<parameter=new>\ny", new="z"), "",
        [("Edit", {"path": "a", "old": "x\n<parameter=new>\ny", "new": "z"})]),
    "a_fence_right_after_a_call": (f"x {WRAPPED}```\n{WRAPPED}\n```\n", f"x ```\n{WRAPPED}\n```\n", [CALL]),
    "no_parameters": ("<tool_call>\n<function=list_files>\n</function>\n</tool_call>", "", [("list_files", {})]),
    "a_name_in_prose_before": (f"Now <function=Bash> is\n{LS}", "Now <function=Bash> is\n", [CALL]),
    "opening_tag_written_twice": (f"<tool_call>\n{WRAPPED}", "<tool_call>\n", [CALL]),
    "hermes": (f"Yes.\n{HERMES}", "Yes.\n", [CALL]),
    "hermes_several": (f"{HERMES}\n{HERMES}\n", "", [CALL, CALL]),
    "hermes_arguments_as_a_string": (
        '<tool_call>{"name":"Bash","arguments":"{\\"command\\":\\"ls\\"}"}</tool_call>', "", [CALL]),
    "hermes_two_objects_in_one_pair_of_tags": (
        '<tool_call>\n{"name":"list_files"}\n{"name":"list_files","arguments":null}\n</tool_call>',
        "", [("list_files", {}), ("list_files", {})]),
    "hermes_parameters_for_arguments": ('<tool_call>{"name":"Bash","parameters":{"command":"ls"}}</tool_call>', "", [CALL]),
    "hermes_closing_tag_in_a_string": (
        '<tool_call>{"name":"Bash","arguments":{"command":"echo \\"</tool_call>\\" }\\\\"}}</tool_call>',
        "", [("Bash", {"command": 'echo "</tool_call>" }\\'})]),
    "hermes_quote_and_brace_in_a_string": (
        '<tool_call>{"name":"Bash","arguments":{"command":"a \\" }"}}</tool_call>', "", [("Bash", {"command": 'a " }'})]),
    "hermes_line_end_in_a_string": (
        '<tool_call>{"name":"Bash","arguments":{"command":"a\nb"}}</tool_call>', "", [("Bash", {"command": "a\nb"})]),
    "hermes_closing_tag_missing": ('<tool_call>\n{"name":"Bash","arguments":{"command":"ls"}}\n', "", [CALL]),
    "hermes_closing_tag_missing_before_the_next": (HERMES.removesuffix("</tool_call>") + HERMES, "", [CALL, CALL]),
    "hermes_lone_surrogate": (
        '<tool_call>{"name":"Bash","arguments":{"command":"\\ud800"}}</tool_call>', "", [("Bash", {"command": "\ud800"})]),
    "after_a_closed_fence": (f"```\nx\n```\n{WRAPPED}", "```\nx\n```\n", [CALL]),
    "after_a_code_span": (f"I use `ls`: {WRAPPED}", "I use `ls`: ", [CALL]),
    "after_a_stray_backtick_on_an_earlier_line": (f"a ` b\n{WRAPPED}", "a ` b\n", [CALL]),
    "after_a_fence_on_one_line": (f"```ls```\n{WRAPPED}", "```ls```\n", [CALL]),
    "in_a_list": (f"1. {WRAPPED}", "1. ", [CALL]),
}

TEXTS = {
    "an_unknown_function": xml("rm", x="1"),
    "an_unknown_function_in_tags": f"<tool_call>\n{xml('rm', x='1')}\n</tool_call>",
    "an_unknown_name_in_json": '<tool_call>{"name":"rm","arguments":{}}</tool_call>',
    "a_longer_name": xml("Bashful", command="ls"),
    "a_freeform_tool": xml("raw", input="x"),
    "html": "<div>\n<function>f</function> a < b && c<d <tool <tool_calls> <function = 1>",
    "the_marker_alone": "the tag <tool_call> opens, </tool_call> closes",
    "the_name_alone": "write <function=Bash> and <parameter=command> then",
    "in_a_fence": f"So:\n```xml\n{WRAPPED}\n```\n",
    "in_an_indented_fence": f"- so:\n  ```\n  {WRAPPED}\n  ```\n",
    "in_a_fence_in_a_list": f"> 1. ```\n{WRAPPED}\n```\n",
    "in_a_longer_fence": f"````\n```\n{WRAPPED}\n```\n````\n",
    "after_a_fence_in_a_fence": f"```md\n```python\n{WRAPPED}\n```\n",
    "in_a_fence_with_backticks_at_a_line_end": f"```\nx ```\n{WRAPPED}\n```\n",
    "in_a_fence_that_never_ends": f"```\n{WRAPPED}",
    "in_a_code_span": "it begins with `<tool_call>` and `<function=Bash>`.",
    "in_a_code_span_of_two": f"`` ` {LS[:15]} ``",
    "in_a_code_span_on_one_line": "`<function=list_files></function>`",
    "json_that_is_none": '<tool_call>{"name": Bash}</tool_call>',
    "json_arguments_that_are_a_list": '<tool_call>{"name":"Bash","arguments":[1]}</tool_call>',
    "json_name_that_is_a_number": '<tool_call>{"name":1,"arguments":{}}</tool_call>',
    "json_then_junk": '<tool_call>{"name":"list_files"} or so</tool_call>',
    "json_nested_without_end": "<tool_call>" + '{"name":' * 5000 + "1" + "}" * 5000 + "</tool_call>",
    "json_cut": '<tool_call>{"name":"Bash","argu',
    "junk_between_parameters": "<function=Bash>\n<parameter=command>\nls\n</parameter>\n or <parameter=timeout>",
    "a_key_over_lines": "<function=Bash>\n<parameter=com\nmand>\nls\n</parameter>\n</function>",
    "an_empty_key": "<function=Bash><parameter=>ls</parameter></function>",
    "a_key_too_long": f"<function=Bash><parameter={'k' * 300}>ls</parameter></function>",
    "a_parameter_never_closed": "<function=Bash>\n<parameter=command>\nls\n",
    "a_function_without_parameters_or_end": "<function=list_files>\n",
    "white_space_only": "\n\n",
    "half_a_marker_at_the_end": "x <tool_c",
}

SIZES = pytest.mark.parametrize("size", [0, 1, 7])


def rows(table: dict[str, Any]) -> pytest.MarkDecorator:
    """One test for each named row."""
    return pytest.mark.parametrize("row", table.values(), ids=table)


@SIZES
@rows(LEAKS)
def test_leaks(row: tuple[str, str, Calls], size: int) -> None:
    """Each shape of leak gives its calls, its text without them, and the stop reason of a call."""
    leaked, text, calls = row
    out = run(answer(leaked, size=size))
    assert (text, calls, "tool_use") == (text_of(out), calls_of(out), reason_of(out))
    assert isinstance(out[-1], Done)


@SIZES
@rows(TEXTS)
def test_texts(row: str, size: int) -> None:
    """What is no call of a known tool stays the text it was, and the answer ends as it did."""
    out = run(answer(row, size=size))
    assert (row, [], "end") == (text_of(out), calls_of(out), reason_of(out))


@pytest.mark.parametrize("value", [
    "a < b && c > d", "<div>\n</div>", "  indented\n\ttabs ", "\nblank lines around\n", "", "&lt;&amp;", '"\\\n',
    "</parameter", "</Parameter>", "</parameter >", "see </parameter> there", "</parameter>\nmore",
    "</function>", "</function>\n</tool_call> is the end", "<tool_call>", "```\n<tool_call>\n```", "<function=Bash>",
    "<parameter=other>\nx", "ünïcödé 🎈", "null", "5", "True",
])
@SIZES
def test_values_are_kept_to_the_byte(value: str, size: int) -> None:
    """A string parameter may hold anything but a closing tag that another tag follows."""
    out = run(answer(f"<tool_call>\n{xml('Bash', command=value, timeout='5')}\n</tool_call>", size=size))
    assert [("Bash", {"command": value, "timeout": 5})] == calls_of(out)
    assert text_of(out) == ""


ANY: dict[str, Any] = {}
TYPED: list[tuple[Any, str, Any]] = [
    ({"type": "string"}, "007", "007"),
    ({"type": "integer"}, " 7 ", 7),
    ({"type": "integer"}, "7.0", 7),
    ({"type": "integer"}, "7.5", "7.5"),
    ({"type": "integer"}, "seven", "seven"),
    ({"type": "integer"}, "true", "true"),
    ({"type": "integer"}, "None", None),
    ({"type": "integer"}, "123456789012345678901234567890", 123456789012345678901234567890),
    ({"type": "integer"}, "9" * 5000, "9" * 5000),
    ({"type": "number"}, "7.5", 7.5),
    ({"type": "number"}, "-1e3", -1000.0),
    ({"type": "number"}, "NaN", "NaN"),
    ({"type": "number"}, "1e999", "1e999"),
    ({"type": "boolean"}, "true", True),
    ({"type": "boolean"}, "False", False),
    ({"type": "boolean"}, "yes", "yes"),
    ({"type": "null"}, "null", None),
    ({"type": "object"}, '{"a": [1, null]}', {"a": [1, None]}),
    ({"type": "object"}, "{'a': True, 'b': None}", {"a": True, "b": None}),
    ({"type": "object"}, "[1]", "[1]"),
    ({"type": "object"}, "{1, 2}", "{1, 2}"),
    ({"type": "object"}, "{" * 9999, "{" * 9999),
    ({"type": "array"}, '["a"]', ["a"]),
    ({"type": "array"}, "[" * 9999, "[" * 9999),
    ({"type": ["string", "null"]}, "null", None),
    ({"type": ["string", "null"]}, "nullable", "nullable"),
    ({"type": ["boolean", "null"]}, "false", False),
    ({"type": "string", "nullable": True}, "None", None),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "5", 5),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "None", None),
    ({"oneOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]}, '["a"]', ["a"]),
    ({"anyOf": [{"type": "string"}, {"type": "object"}]}, "{broken", "{broken"),
    ({"anyOf": [{"type": "string"}, {"type": "object"}]}, '{"a":1}', {"a": 1}),
    ({"type": ["string", "number"]}, "007", "007"),
    ({"enum": ["none", "null", None]}, "none", "none"),
    ({"enum": ["a", None]}, "None", None),
    ({"enum": [1, 2]}, "2", 2),
    ({"const": "null", "type": ["string", "null"]}, "null", "null"),
    ({"$ref": "#/$defs/Point"}, '{"x": 1}', {"x": 1}),
    ({"$ref": "#/$defs/Loop"}, '{"x": 1}', '{"x": 1}'),
    ({"$ref": "elsewhere"}, "5", "5"),
    ({"items": {}}, "[1]", [1]),
    (ANY, "5", "5"),
    (ANY, '{"a": 1}', {"a": 1}),
    (None, '{"a": 1}', '{"a": 1}'),
    ("nonsense", "5", "5"),
    ({"type": 5, "anyOf": 5, "enum": 5}, "5", "5"),
]


@pytest.mark.parametrize(("schema", "value", "expected"), TYPED)
def test_values_are_typed_by_the_schema(schema: Any, value: str, expected: Any) -> None:
    """A raw value becomes JSON of a type that the tool's schema allows, and a string if none fits."""
    loop = {"anyOf": [{"$ref": "#/$defs/Loop"}, {"$ref": "#/$defs/Loop"}], "type": "string"}
    parameters = {"$defs": {"Point": {"properties": {"x": {}}}, "Loop": loop},
                  "properties": {} if schema is None else {"v": schema}}
    out = run(answer(xml("t", v=value)), (Tool(name="t", parameters=parameters),))
    assert [("t", {"v": expected})] == calls_of(out)


@pytest.mark.parametrize("parameters", [None, [], "x", {"properties": []}, {"required": [1, "v"], "properties": None}])
def test_odd_schemas(parameters: Any) -> None:
    """A tool with a schema that is none takes strings."""
    out = run(answer(xml("t", v="5")), (Tool(name="t", parameters=parameters),))
    assert calls_of(out) == [("t", {"v": "5"})]


def test_the_last_of_equal_parameters_counts() -> None:
    """A parameter written twice has its last value."""
    twice = "<function=Bash><parameter=command>a</parameter><parameter=command>b</parameter></function>"
    assert calls_of(run(answer(twice))) == [("Bash", {"command": "b"})]


# ------------------------------------------------------------------------ the stream


def test_text_flows_at_once() -> None:
    """Text is held only while it may be a marker."""
    repair = ToolCallRepair(TOOLS)
    shown = [text_of(repair.feed(TextDelta(text=piece)))
             for piece in ["Hi ", "a <", " b <tool", "s> <func", "tion=", "Ba", "r", "> <"]]
    assert shown == ["Hi ", "a ", "< b ", "<tools> ", "", "", "<function=Bar", "> "]


def test_a_key_without_end_is_not_held() -> None:
    """What grows longer than any parameter's name flows on."""
    repair = ToolCallRepair(TOOLS)
    assert text_of(repair.feed(TextDelta(text="<function=Bash><parameter=" + "k" * 256))) == ""
    assert text_of(repair.feed(TextDelta(text="k"))) == "<function=Bash><parameter=" + "k" * 257


def test_white_space_after_a_native_call_stays() -> None:
    """Only white space beside a repaired call is dropped."""
    native = ToolStart(index=0, id="n", name="Bash")
    out = run([TextDelta(text=f"{LS}\n"), native, TextDelta(text="\n"), Stop(reason="tool_use")])
    assert text_of(out) == "\n"


def test_code_is_never_held() -> None:
    """In a code span half a marker flows on."""
    repair = ToolCallRepair(TOOLS)
    assert text_of(repair.feed(TextDelta(text="see `<tool"))) == "see `<tool"


def test_untouched_events_are_the_same_objects() -> None:
    """Without a leak every event goes through as it is."""
    events: list[Event] = [
        Start(id="a"), ThinkingDelta(text="hm"), TextDelta(text=""), TextDelta(text="a <b> c"), TextDelta(text="d"),
        UsageReport(tokens=Tokens()), ToolStart(index=3, id="x", name="Bash"), ToolDelta(index=3, arguments="{}"),
        Stop(reason="end"), Done()]
    out = run(events)
    assert len(out) == len(events)
    assert all(a is b for a, b in zip(out, events, strict=True))


def test_without_tools_nothing_is_a_call() -> None:
    """A request without tools has no calls to repair."""
    events = answer(WRAPPED)
    assert events == run(events, ())


@pytest.mark.parametrize("reason", ["length", "filtered", "context", "pause"])
@pytest.mark.parametrize("leak", ["both_closing_tags_missing", "hermes_closing_tag_missing", "cut_within_a_closing_tag"])
def test_a_call_that_was_cut_off_is_text(leak: str, reason: str) -> None:
    """A model that was stopped from outside may have wanted to say more: its open call is text."""
    out = run(answer(LEAKS[leak][0], reason))
    assert (LEAKS[leak][0], [], reason) == (text_of(out), calls_of(out), reason_of(out))


def test_a_complete_call_before_a_cut() -> None:
    """A complete call counts also when the answer was cut later, and the reason stays."""
    out = run(answer(f"{WRAPPED}\n<tool_call>\n<function=Ba", "length"))
    assert (text_of(out), calls_of(out), reason_of(out)) == ("\n<tool_call>\n<function=Ba", [CALL], "length")


@pytest.mark.parametrize("last", [Done(), Failure(kind="api", message="x"), ThinkingDelta(text="x"),
                                  ToolStart(index=0, id="i", name="Bash"), ToolDelta(index=0, arguments="x")])
def test_held_text_comes_before_what_follows(last: Event) -> None:
    """Whatever ends the text brings out what is held, first."""
    held = "<function=Bash>\n<parameter=command>\nls\n</parameter>\n"
    assert [TextDelta(text=held), last] == run([TextDelta(text=held), last])
    assert [TextDelta(text=" \n"), last] == run([TextDelta(text=" \n"), last])


def test_usage_does_not_cut_a_call() -> None:
    """Usage beside every piece passes in order, and the call is whole."""
    reports = [UsageReport(tokens=Tokens(output=n)) for n in range(len(WRAPPED))]
    out = run([e for i, c in enumerate(WRAPPED) for e in (TextDelta(text=c), reports[i])] + [Stop(reason="end")])
    assert reports == [e for e in out if isinstance(e, UsageReport)]
    assert calls_of(out) == [CALL]


def test_indices_follow_the_order_of_appearance() -> None:
    """Native and repaired calls of one answer share one row of indices, and deltas stay with their calls."""
    out = run([
        Start(id="a"), ToolStart(index=0, id="n0", name="Edit", namespace="s"), ToolDelta(index=0, arguments='{"a":'),
        TextDelta(text=f"{LS}\n"), ToolDelta(index=0, arguments="1}"), ToolStart(index=1, id="n1", name="Edit"),
        ToolDelta(index=1, arguments="{}"), TextDelta(text=HERMES), Stop(reason="tool_use"), Done()])
    assert calls_of(out) == [("Edit", {"a": 1}), CALL, ("Edit", {}), CALL]
    starts = [e for e in out if isinstance(e, ToolStart)]
    assert [starts[0].id, starts[2].id] == ["n0", "n1"]
    assert starts[0].namespace == "s"
    assert text_of(out) == ""


def test_ids() -> None:
    """Ids are the same for the same answer, differ within it and between answers, and suit every provider's rule."""
    def ids(answer_id: str, salt: str = "") -> list[str]:
        repair = ToolCallRepair(TOOLS, salt=salt)
        events = [Start(id=answer_id), TextDelta(text=WRAPPED * 2)]
        return [e.id for event in events for e in repair.feed(event) if isinstance(e, ToolStart)]
    every = ids("a") + ids("b") + ids("", "r1") + ids("", "r2")
    assert len(set(every)) == 8
    assert ids("a") == every[:2]
    assert all(re.fullmatch(r"call_repaired_\d+_[0-9a-f]{16}", one) for one in every)


def test_repaired_counts() -> None:
    """The count tells repaired calls only."""
    repair = ToolCallRepair(TOOLS)
    for event in [ToolStart(index=0, id="n", name="Bash"), *answer(f"{WRAPPED}\n{HERMES}\n{xml('rm')}")]:
        repair.feed(event)
    assert repair.repaired == 2


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_call_that_grows_too_long_is_text(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the held text goes out, and what follows is read afresh."""
    monkeypatch.setattr(module, "HELD_LIMIT", 200)
    long = xml("Bash", command="x" * 300)
    out = run(answer(f"{long}\n{WRAPPED}", size=size))
    assert (f"{long}\n", [CALL]) == (text_of(out), calls_of(out))
    fits = xml("Bash", command="x" * (200 - len(xml("Bash", command=""))))
    assert len(fits) == 200
    assert text_of(run(answer(fits, size=size))) == ""


def test_a_long_call_by_the_letter() -> None:
    """A long call that comes in small pieces is read in time linear in its length."""
    value = "</parameter>\n<x> </function> " * 20_000
    out = run(answer(xml("Bash", command=value), size=9))
    assert [("Bash", {"command": value})] == calls_of(out)
