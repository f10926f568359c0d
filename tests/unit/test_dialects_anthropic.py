"""What each Claude takes of a translated request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.core import toolbox
from extproc.dialects import DIALECTS
from extproc.dialects._claude import version
from extproc.dialects.base import Notes
from extproc.schemas import CLIENTS, PROVIDERS
from extproc.schemas._codec import encode_request
from extproc.schemas.base import Target

USER: dict[str, Any] = {"role": "user", "content": "hi"}
CACHE = {"type": "ephemeral"}
OFF = {"type": "disabled"}
ADAPTIVE = {"type": "adaptive"}
ANY = {"type": "any"}
RESULT: dict[str, Any] = {"type": "tool_result", "tool_use_id": "1"}
OLD = ("claude-3-5-haiku-latest", "claude-3-7-sonnet-20250219", "claude-sonnet-4-5", "claude-opus-4-6")
NEW = ("claude-opus-4-7", "claude-opus-5", "claude-sonnet-5", "claude-haiku-5-5", "claude-fable-5", "claude-mythos-preview")


def text(value: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **fields}


def turn(role: str, *blocks: Any) -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


def enabled(budget: int) -> dict[str, Any]:
    return {"type": "enabled", "budget_tokens": budget}


def adapt(model: str, **fields: Any) -> tuple[dict[str, Any], Notes]:
    """The fields of a request after adapting; limit and messages only when they changed."""
    notes = Notes()
    given: dict[str, Any] = json.loads(json.dumps({"max_tokens": 64000, "messages": [USER], **fields}))
    DIALECTS["anthropic"].adapt(given, "anthropic", Target(model), notes)
    plain = (("max_tokens", 64000), ("messages", [USER]))
    return {name: value for name, value in given.items() if (name, value) not in plain}, notes


@pytest.mark.parametrize(("name", "family", "number"), [
    ("claude-opus-4-6", "opus", (4, 6)), ("claude-opus-4-6-20260205", "opus", (4, 6)),
    ("claude-sonnet-4-5-20250929", "sonnet", (4, 5)), ("claude-sonnet-4-20250514", "sonnet", (4, 0)),
    ("claude-opus-4-0", "opus", (4, 0)), ("claude-opus-5", "opus", (5, 0)), ("claude-sonnet-5-5", "sonnet", (5, 5)),
    ("claude-fable-5-2", "fable", (5, 2)), ("claude-mythos-preview", "mythos", (4, 6)),
    ("claude-3-5-sonnet-20241022", "sonnet", (3, 5)), ("claude-3-7-sonnet-latest", "sonnet", (3, 7)),
    ("claude-3-opus-20240229", "opus", (3, 0)), ("claude-2.1", "", (2, 1)), ("claude-4-opus-20250514", "opus", (4, 0)),
    ("anthropic/claude-haiku-4.5", "haiku", (4, 5)), ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "sonnet", (4, 5)),
    ("claude-opus-latest", "", (99, 0)),
])
def test_versions(name: str, family: str, number: tuple[int, int]) -> None:
    """Family and version are told from every form of name; a Claude without a version is the newest."""
    assert version(name) == (family, number)


class TestSampling:
    """Temperature, top_p and top_k."""

    @pytest.mark.parametrize("model", NEW)
    def test_newer_models_take_none(self, model: str) -> None:
        """Since 4.7 sampling is a 400, so it is dropped by name."""
        assert adapt(model, temperature=0.2, top_p=0.9, top_k=5) == ({}, Notes(dropped=["temperature", "top_p", "top_k"]))

    @pytest.mark.parametrize("model", OLD)
    def test_older_models_take_one(self, model: str) -> None:
        """Older models take temperature or top_p, not both, and top_k."""
        assert adapt(model, temperature=0.2, top_p=0.9, top_k=5) == (
            {"temperature": 0.2, "top_k": 5}, Notes(dropped=["top_p"]))
        assert adapt(model, top_p=0.9) == ({"top_p": 0.9}, Notes())

    @pytest.mark.parametrize(("given", "sent"), [(1.7, 1), (-1, 0), (1, 1), (0, 0), (0.5, 0.5)])
    def test_temperature_is_at_most_one(self, given: float, sent: float) -> None:
        """OpenAI's range goes to 2, Anthropic's to 1."""
        assert adapt("claude-haiku-4-5", temperature=given) == (
            {"temperature": sent}, Notes(emulated=[] if given == sent else ["temperature"]))

    def test_none_while_it_thinks(self) -> None:
        """Thinking goes with no sampling."""
        got, notes = adapt("claude-sonnet-4-5", thinking=enabled(2000), temperature=0.2, top_k=5)
        assert got == {"thinking": enabled(2000)}
        assert notes == Notes(dropped=["temperature", "top_k"])

    def test_defaults_go_without_a_word(self) -> None:
        """Temperature 1 and top_p 1 say nothing: leaving them out is no loss."""
        assert adapt("claude-opus-5", temperature=1, top_p=1) == ({}, Notes())


class TestEffort:
    """output_config.effort."""

    @pytest.mark.parametrize(("model", "given", "sent"), [
        ("claude-opus-4-5", "high", "high"), ("claude-opus-4-5", "max", "high"), ("claude-opus-4-5", "xhigh", "high"),
        ("claude-sonnet-5", "max", "max"), ("claude-haiku-5-5", "low", "low"),
        ("claude-fable-5", "xhigh", "xhigh"), ("claude-zeta-9", "max", "max"),
    ])
    def test_levels(self, model: str, given: str, sent: str) -> None:
        """A level that the model lacks becomes the next lower one."""
        assert adapt(model, output_config={"effort": given}) == (
            {"output_config": {"effort": sent}}, Notes(emulated=[] if given == sent else ["effort"]))

    @pytest.mark.parametrize(("model", "given", "sent"), [
        ("claude-opus-4-6", "max", "max"), ("claude-opus-4-6", "xhigh", "high"), ("claude-sonnet-4-6", "max", "max"),
        ("claude-opus-4-7", "xhigh", "xhigh"), ("claude-opus-4-8", "low", "low"),
    ])
    def test_models_that_think_when_asked(self, model: str, given: str, sent: str) -> None:
        """From 4.6 to 4.8 thinking must be asked for, and an effort asks for it."""
        assert adapt(model, output_config={"effort": given}) == (
            {"output_config": {"effort": sent}, "thinking": ADAPTIVE}, Notes(emulated=[] if given == sent else ["effort"]))
        assert adapt(model, output_config={"effort": "low"}, thinking=OFF)[0]["thinking"] == OFF

    @pytest.mark.parametrize(("model", "effort", "budget"), [
        ("claude-sonnet-4-5", "low", 2048), ("claude-haiku-4-5", "medium", 8192), ("claude-opus-4-1", "max", 31999),
        ("claude-3-7-sonnet-latest", "high", 16384),
    ])
    def test_models_without_effort_get_a_budget(self, model: str, effort: str, budget: int) -> None:
        """Models that know no effort think with a budget instead."""
        assert adapt(model, output_config={"effort": effort}) == ({"thinking": enabled(budget)}, Notes(emulated=["effort"]))

    @pytest.mark.parametrize(("model", "given", "sent"), [
        ("claude-3-5-haiku-latest", {}, {}),
        ("claude-sonnet-4-5", {"thinking": OFF}, {"thinking": OFF}),
        ("claude-sonnet-4-5", {"thinking": enabled(5000)}, {"thinking": enabled(5000)}),
    ])
    def test_an_effort_with_no_place(self, model: str, given: dict[str, Any], sent: dict[str, Any]) -> None:
        """A model that cannot think, thinking that is off or has a budget: the effort is dropped."""
        assert adapt(model, output_config={"effort": "high"}, **given) == (sent, Notes(dropped=["effort"]))

    def test_a_format_stays_beside_it(self) -> None:
        """Taking the effort away leaves the answer's format."""
        got, _ = adapt("claude-haiku-4-5", output_config={"effort": "low", "format": {"type": "json_schema", "schema": {}}})
        assert got["output_config"] == {"format": {"type": "json_schema", "schema": {}}}


class TestThinking:
    """The thinking field."""

    @pytest.mark.parametrize(("model", "sent", "effort", "notes"), [
        ("claude-3-5-haiku-latest", None, None, Notes()),
        ("claude-sonnet-4-5", OFF, None, Notes()), ("claude-opus-4-8", OFF, None, Notes()),
        ("claude-opus-5", OFF, None, Notes()), ("claude-haiku-5-5", OFF, None, Notes()),
        ("claude-sonnet-5", OFF, None, Notes()),
        ("claude-sonnet-5-5", {"type": "between_tools"}, None, Notes(emulated=["thinking"])),
        ("claude-opus-5-5", None, "low", Notes(emulated=["thinking"])),
        ("claude-fable-5", None, "low", Notes(emulated=["thinking"])),
        ("claude-mythos-5-1", None, "low", Notes(emulated=["thinking"])),
        ("claude-mythos-preview", None, "low", Notes(emulated=["thinking"])),
    ])
    def test_off(self, model: str, sent: Any, effort: str | None, notes: Notes) -> None:
        """No thinking, in the way that the model has; where it has none, the least effort comes nearest."""
        want = {"thinking": sent, "output_config": effort and {"effort": effort}}
        assert adapt(model, thinking=OFF) == ({name: value for name, value in want.items() if value}, notes)

    @pytest.mark.parametrize(("model", "effort", "sent"), [
        ("claude-opus-5", "max", "high"), ("claude-opus-5", "xhigh", "high"), ("claude-haiku-5-5", "max", "high"),
        ("claude-opus-5", "high", "high"), ("claude-opus-4-8", "max", "max"),
    ])
    def test_off_with_much_effort(self, model: str, effort: str, sent: str) -> None:
        """Opus 5 refuses disabled thinking above high effort."""
        got, notes = adapt(model, thinking=OFF, output_config={"effort": effort})
        assert got == {"thinking": OFF, "output_config": {"effort": sent}}
        assert notes == Notes(emulated=[] if effort == sent else ["effort"])

    @pytest.mark.parametrize(("model", "given", "sent", "notes"), [
        ("claude-opus-4-6", ADAPTIVE, {"thinking": ADAPTIVE}, Notes()),
        ("claude-opus-5-5", ADAPTIVE, {"thinking": ADAPTIVE}, Notes()),
        ("claude-sonnet-4-5", ADAPTIVE, {"thinking": enabled(16384)}, Notes(emulated=["thinking"])),
        ("claude-3-5-haiku-latest", ADAPTIVE, {}, Notes(dropped=["thinking"])),
        ("claude-opus-4-6", enabled(4000), {"thinking": enabled(4000)}, Notes()),
        ("claude-sonnet-4-5", enabled(4000), {"thinking": enabled(4000)}, Notes()),
        ("claude-opus-4-7", enabled(2000), {"thinking": ADAPTIVE, "output_config": {"effort": "low"}},
         Notes(emulated=["thinking_budget"])),
        ("claude-sonnet-5", enabled(16000), {"thinking": ADAPTIVE, "output_config": {"effort": "high"}},
         Notes(emulated=["thinking_budget"])),
        ("claude-opus-5", enabled(99999), {"thinking": ADAPTIVE, "output_config": {"effort": "max"}},
         Notes(emulated=["thinking_budget"])),
        ("claude-3-5-haiku-latest", enabled(4000), {}, Notes(dropped=["thinking"])),
        ("claude-opus-4-8", {"type": "between_tools"}, {"thinking": OFF}, Notes(emulated=["thinking"])),
        ("claude-sonnet-5-5", {"type": "between_tools"}, {"thinking": {"type": "between_tools"}}, Notes()),
    ])
    def test_modes(self, model: str, given: Any, sent: dict[str, Any], notes: Notes) -> None:
        """A budget up to 4.6, adaptive from 4.6 on; each stands for the other where the model lacks it."""
        assert adapt(model, thinking=given) == (sent, notes)

    def test_display_stays(self) -> None:
        """How thinking is shown is kept when its mode changes."""
        got, _ = adapt("claude-opus-5", thinking={**enabled(2000), "display": "omitted"})
        assert got["thinking"] == {"type": "adaptive", "display": "omitted"}

    @pytest.mark.parametrize(("limit", "budget", "sent", "notes"), [
        (4000, 3000, 3000, Notes()), (4000, 4000, 3999, Notes(emulated=["thinking_budget"])),
        (50000, 10, 1024, Notes(emulated=["thinking_budget"])), (1025, 5000, 1024, Notes(emulated=["thinking_budget"])),
        (1024, 1024, None, Notes(dropped=["thinking"])), (10, 5000, None, Notes(dropped=["thinking"])),
    ])
    def test_budget_and_limit(self, limit: int, budget: int, sent: int | None, notes: Notes) -> None:
        """A budget is at least 1024 and below the limit; where there is no room for one there is no thinking."""
        got, said = adapt("claude-sonnet-4-5", max_tokens=limit, thinking=enabled(budget))
        assert got == {"max_tokens": limit} | ({} if sent is None else {"thinking": enabled(sent)})
        assert said == notes

    @pytest.mark.parametrize(("blocks", "kept"), [
        ([{"type": "tool_use", "id": "1", "name": "f", "input": {}}], False),
        ([{"type": "thinking", "thinking": "hm", "signature": "s"},
          {"type": "tool_use", "id": "1", "name": "f", "input": {}}], True),
        ([{"type": "redacted_thinking", "data": "x"}, {"type": "tool_use", "id": "1", "name": "f", "input": {}}], True),
    ])
    def test_a_tool_loop_without_thinking(self, blocks: list[Any], kept: bool) -> None:
        """A budget cannot begin inside a tool loop: without the thinking that began the loop it is dropped."""
        messages = [USER, turn("assistant", *blocks), turn("user", {"type": "tool_result", "tool_use_id": "1"})]
        got, notes = adapt("claude-sonnet-4-5", thinking=enabled(2000), messages=messages)
        assert ("thinking" in got, notes) == (kept, Notes(dropped=[] if kept else ["thinking"]))
        assert adapt("claude-opus-4-6", thinking=ADAPTIVE, messages=messages)[1] == Notes()


class TestTools:
    """The tool choice."""

    @pytest.mark.parametrize("choice", [ANY, {"type": "tool", "name": "f"}])
    def test_a_forced_call_ends_a_budget(self, choice: Any) -> None:
        """A forced call and a thinking budget exclude each other: the call is the demand."""
        assert adapt("claude-sonnet-4-5", thinking=enabled(2000), tool_choice=choice) == (
            {"tool_choice": choice}, Notes(dropped=["thinking"]))
        assert adapt("claude-opus-4-6", thinking=ADAPTIVE, tool_choice=choice)[1] == Notes()

    @pytest.mark.parametrize("model", ["claude-opus-5-5", "claude-sonnet-5-5", "claude-fable-5-1", "claude-mythos-5-2"])
    def test_models_that_cannot_be_forced(self, model: str) -> None:
        """The newest models refuse a forced call: the choice is free, and a named tool is offered alone."""
        f, g = {"name": "f", "input_schema": {}}, {"name": "g", "input_schema": {}}
        assert adapt(model, tools=[f, g], tool_choice={**ANY, "disable_parallel_tool_use": True}) == (
            {"tools": [f, g], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            Notes(dropped=["tool_choice"]))
        assert adapt(model, tools=[f, g], tool_choice={"type": "tool", "name": "f"}) == (
            {"tools": [f], "tool_choice": {"type": "auto"}}, Notes(dropped=["tool_choice"]))

    @pytest.mark.parametrize("model", ["claude-haiku-5-5", "claude-opus-5", "claude-fable-5", "claude-sonnet-5"])
    def test_models_that_can(self, model: str) -> None:
        """Others take a forced call."""
        assert adapt(model, tool_choice=ANY) == ({"tool_choice": ANY}, Notes())


class TestTurns:
    """System messages between the turns, beginnings of answers, empty blocks."""

    S = turn("system", text("x", cache_control=CACHE))
    REMINDER = text("<system-reminder>\nx\n</system-reminder>", cache_control=CACHE)
    A = turn("assistant", text("a"))

    @pytest.mark.parametrize("model", ["claude-opus-4-8", "claude-opus-5", "claude-fable-5", "claude-mythos-5",
                                       "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"])
    def test_newer_models_take_system_messages(self, model: str) -> None:
        """After a user's turn, before an answer or at the end, a system message stays where it is."""
        messages = [turn("user", text("q")), self.S, self.A, turn("user", text("r")), self.S]
        assert adapt(model, messages=messages) == ({"messages": messages}, Notes())

    @pytest.mark.parametrize("model", ["claude-opus-4-7", "claude-sonnet-5", "claude-haiku-4-5", "claude-zeta-7", "other"])
    def test_other_models_get_a_reminder(self, model: str) -> None:
        """For other models it becomes text of the user's turn, with its cache mark."""
        got, notes = adapt(model, messages=[turn("user", text("q")), self.S, self.A, turn("user", text("r"))])
        assert got["messages"] == [turn("user", text("q"), self.REMINDER), self.A, turn("user", text("r"))]
        assert notes == Notes(emulated=["system"])

    @pytest.mark.parametrize(("given", "sent"), [
        ([turn("user", text("q")), A, S, turn("user", text("r"))],
         [turn("user", text("q")), A, turn("user", REMINDER, text("r"))]),
        ([S, turn("user", text("q"))], [turn("user", REMINDER, text("q"))]),
        ([turn("user", text("q")), A, S, turn("user", RESULT, text("r"))],
         [turn("user", text("q")), A, turn("user", RESULT, REMINDER, text("r"))]),
    ])
    def test_misplaced_system_messages(self, given: list[Any], sent: list[Any]) -> None:
        """Elsewhere also the newer models get a reminder; tool results stay first in their turn."""
        assert adapt("claude-opus-5", messages=given) == ({"messages": sent}, Notes(emulated=["system"]))

    @pytest.mark.parametrize("model", ["claude-sonnet-4-5", "claude-3-5-haiku-latest", "claude-opus-4-5", "other"])
    def test_older_models_continue_an_answer(self, model: str) -> None:
        """Up to 4.5 the beginning of an answer stays last."""
        messages = [turn("user", text("q")), self.A]
        assert adapt(model, messages=messages) == ({"messages": messages}, Notes())

    @pytest.mark.parametrize(("model", "fields"), [
        ("claude-opus-4-6", {}), ("claude-sonnet-5", {}), ("claude-fable-5", {}),
        ("claude-sonnet-4-5", {"thinking": enabled(2000)}),
    ])
    def test_newer_models_are_asked_to(self, model: str, fields: dict[str, Any]) -> None:
        """Newer models, and all while they think, refuse it: a user's turn asks to go on."""
        got, notes = adapt(model, messages=[turn("user", text("q")), self.A], **fields)
        assert got["messages"] == [turn("user", text("q")), self.A, turn("user", text("Continue."))]
        assert notes == Notes(emulated=["prefill"])

    def test_empty_text_and_documents(self) -> None:
        """Empty text blocks, turns of nothing else, and documents in the assistant's turns are taken out."""
        document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "d"}}
        got, notes = adapt("claude-opus-5", messages=[
            turn("user", document, text(" "), text("q")), turn("assistant", text("")),
            turn("assistant", document, text("a")), turn("user", text("r"))])
        assert got["messages"] == [turn("user", document, text("q")), self.A, turn("user", text("r"))]
        assert notes == Notes(dropped=["documents"])


class TestCache:
    """Cache breakpoints: four at most."""

    def test_four_stay(self) -> None:
        """Four marks, also inside a tool result, are left alone."""
        fields: dict[str, Any] = {
            "tools": [{"name": "f", "cache_control": CACHE}], "system": [text("s", cache_control=CACHE)],
            "messages": [turn("user", {"type": "tool_result", "tool_use_id": "1", "content": [text("r", cache_control=CACHE)]},
                              text("q", cache_control=CACHE))]}
        assert adapt("claude-opus-5", **fields) == (fields, Notes())

    def test_the_oldest_of_the_conversation_go(self) -> None:
        """Above four the oldest marks of the conversation go, those of tools and system and the last one stay."""
        got, notes = adapt(
            "claude-opus-5", tools=[{"name": "f", "cache_control": CACHE}], system=[text("s", cache_control=CACHE)],
            messages=[turn("user", *[text(str(i), cache_control=CACHE) for i in range(5)])])
        assert "cache_control" in got["tools"][0]
        assert "cache_control" in got["system"][0]
        assert [b["text"] for b in got["messages"][0]["content"] if "cache_control" in b] == ["3", "4"]
        assert notes == Notes(dropped=["cache_control"])

    def test_the_automatic_one_counts(self) -> None:
        """The top-level breakpoint is one of the four."""
        got, _ = adapt("claude-opus-5", cache_control=CACHE,
                       messages=[turn("user", *[text(str(i), cache_control=CACHE) for i in range(4)])])
        assert [b["text"] for b in got["messages"][0]["content"] if "cache_control" in b] == ["1", "2", "3"]


class TestOther:
    """Stop sequences, tiers, formats, and servers that only speak the schema."""

    @pytest.mark.parametrize(("given", "sent"), [(["a", " ", "\n"], ["a"]), ([" "], None), (["a", 5], ["a"])])
    def test_blank_stop_sequences(self, given: Any, sent: Any) -> None:
        """White space alone is no stop sequence to Anthropic."""
        assert adapt("claude-opus-5", stop_sequences=given) == (
            {"stop_sequences": sent} if sent else {}, Notes(dropped=["stop"]))

    @pytest.mark.parametrize(("given", "sent"), [("auto", "auto"), ("default", "standard_only"), ("flex", None), (5, None)])
    def test_tiers(self, given: Any, sent: Any) -> None:
        """OpenAI's tiers under Anthropic's names, as far as there are any."""
        assert adapt("claude-opus-5", service_tier=given) == (
            {"service_tier": sent} if sent else {}, Notes(dropped=[] if sent else ["service_tier"]))

    @pytest.mark.parametrize("system", [None, "s", [text("s")]])
    def test_a_schema_for_older_models(self, system: Any) -> None:
        """Models before 4.5 cannot be held to a schema: it is told in the system prompt."""
        wanted = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
        fields: dict[str, Any] = {} if system is None else {"system": system}
        got, notes = adapt("claude-3-5-haiku-latest", output_config=wanted, **fields)
        told = 'Answer with one JSON object and nothing else. It must follow this JSON schema:\n{"type":"object"}'
        assert got == {"system": [*([text("s")] if system else []), text(told)]}
        assert notes == Notes(emulated=["json_schema"])
        assert adapt("claude-haiku-4-5", output_config=wanted) == ({"output_config": wanted}, Notes())

    def test_a_model_that_is_no_claude(self) -> None:
        """On another maker's server that speaks the schema nothing is known to be refused."""
        fields = {"thinking": OFF, "output_config": {"effort": "max"}, "temperature": 0.5, "tool_choice": ANY}
        assert adapt("deepseek-v4-pro", **fields) == (fields, Notes())

    @pytest.mark.parametrize(("model", "sent", "notes"), [
        ("claude-sonnet-4-5", {"thinking": enabled(16384)}, Notes(emulated=["effort"], dropped=["temperature"])),
        ("claude-opus-5", {"output_config": {"effort": "high"}}, Notes(dropped=["temperature"])),
        ("claude-3-5-haiku-latest", {"temperature": 0.4}, Notes(dropped=["effort"])),
    ])
    def test_an_openai_request(self, model: str, sent: dict[str, Any], notes: Notes) -> None:
        """A request of an OpenAI client says effort and temperature as its Claude takes them."""
        body = encode_request({"model": "gpt-5", "reasoning_effort": "high", "temperature": 0.4, "max_tokens": 64000,
                               "messages": [{"role": "user", "content": "q"}]})
        dialect, said = DIALECTS["anthropic"], Notes()
        conversation, _ = toolbox.fit(CLIENTS["openai"].parse_request(body), dialect.tools)
        fields = PROVIDERS["anthropic"].render_request(conversation, Target(model)).fields
        dialect.adapt(fields, "anthropic", Target(model), said)
        assert {name: fields[name] for name in ("thinking", "output_config", "temperature") if name in fields} == sent
        assert said == notes
