"""Recorded answers of real providers, behind the backend of their dialect, as the SDKs of all three APIs read them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.data_plane import upstream as up
from tests.data_plane.providers.world import World, running_world

DATA = Path(__file__).parents[1] / "data"
BACKENDS = {"deepseek": "deepseek", "mistral": "mistral", "ollama": "ollama_chat", "anthropic": "anthropic",
            "openai_responses": "openai"}
"""The first part of a recording's name -> the backend that it is played at; the rest is OpenAI's or alike."""
MODELS = {"deepseek": "deepseek-v4-flash", "mistral": "magistral-medium", "ollama_chat": "qwen3:8b",
          "anthropic": "claude-sonnet-5", "openai": "gpt-5-mini", "compatible": "some-model"}
CANNOT = {
    "openai_chat.text_response.0": "its body is plain text, no chat answer",
}


@dataclass(frozen=True)
class Recorded:
    """One recorded answer."""

    name: str
    schema: str
    stream: bool
    content_type: str
    body: bytes

    @property
    def backend(self) -> str:
        """Where it is played."""
        if "groq" in self.name or "cerebras" in self.name:
            return "compatible"
        parts = self.name.split(".")[0]
        maker = "mistral" if "mistral" in self.name else "anthropic" if self.schema == "anthropic" else parts
        return BACKENDS.get(maker, "openai")

    def script(self) -> up.Script:
        """Its replay."""
        return up.Script(headers={"content-type": self.content_type}, chunks=[self.body])


def _read(path: Path) -> Recorded | None:
    value = json.loads(path.read_text())
    if value["status"] != 200 or path.stem in CANNOT or "deepseek_responses" in path.stem:
        return None
    stream = value["content_type"].startswith("text/event-stream")
    body = value["body"].encode()
    if b'"error":' in body[:100] and not stream:
        return None
    # The recorder stripped the last newline of some streams; on the wire every event ends with a blank line.
    body = body.rstrip(b"\n") + b"\n\n" if stream else body
    return Recorded(path.stem, value["schema"], stream, value["content_type"], body)


FOUND = [r for folder in ("recorded", "responses/recorded") for p in sorted((DATA / folder).glob("*.json"))
         if (r := _read(p)) is not None]


@pytest.fixture(scope="module")
def world():
    """The gateway; the stand-ins only replay."""
    with running_world(llama=False) as found:
        yield found


@dataclass(frozen=True)
class Understood:
    """What an SDK understood: the text, and the calls with their arguments."""

    text: str
    calls: list[tuple[str, object]]
    complete: bool


def chat(client, model: str, stream: bool) -> Understood:
    """OpenAI's chat completions."""
    request = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    if not stream:
        [choice, *_] = client.chat.completions.create(**request).choices
        calls = [(c.function.name, c.function.arguments) for c in choice.message.tool_calls or ()]
        return understood(plain(choice.message.content), calls, choice.finish_reason is not None)
    text, names, arguments, finish = "", {}, {}, None
    for chunk in client.chat.completions.create(**request, stream=True):
        for choice in chunk.choices[:1]:
            text, finish = text + plain(choice.delta.content), choice.finish_reason or finish
            for part in choice.delta.tool_calls or ():
                names.setdefault(part.index, part.function.name)
                arguments[part.index] = arguments.get(part.index, "") + (part.function.arguments or "")
    return understood(text, [(names[i], arguments[i]) for i in names], finish is not None)


def plain(content) -> str:
    """The text of a content; Mistral's own answers may have it in parts, beside thinking."""
    return "".join(part.get("text", "") for part in content) if isinstance(content, list) else content or ""


def messages(client, model: str, stream: bool) -> Understood:
    """Anthropic's messages."""
    request = {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
    if stream:
        with client.messages.stream(**request) as events:
            answer = events.get_final_message()
    else:
        answer = client.messages.create(**request)
    text = "".join(block.text for block in answer.content if block.type == "text")
    calls = [(block.name, json.dumps(block.input)) for block in answer.content if block.type == "tool_use"]
    return understood(text, calls, answer.stop_reason is not None)


def responses(client, model: str, stream: bool) -> Understood:
    """OpenAI's responses."""
    if stream:
        *_, last = client.responses.create(model=model, input="hi", stream=True)
        answer = last.response
    else:
        answer = client.responses.create(model=model, input="hi")
    calls = [(item.name, item.arguments) for item in answer.output if item.type == "function_call"]
    return understood(answer.output_text, calls, answer.status in ("completed", "incomplete"))


def understood(text: str, calls: list[tuple[str, str]], complete: bool) -> Understood:
    """With the arguments as values: they may be spaced otherwise."""
    return Understood(text, [(name, json.loads(arguments or "{}")) for name, arguments in calls], complete)


OWN = {"openai": chat, "anthropic": messages, "responses": responses}
BASES = {"openai": "/{}/v1", "anthropic": "/{}", "responses": "/{}/v1"}


@pytest.mark.parametrize("recorded", FOUND, ids=lambda r: r.name)
def test_all_sdks_understand_the_same(world: World, recorded: Recorded):
    """Each SDK reads from the gateway what the provider's own SDK reads from the provider."""
    backend = recorded.backend
    base = BASES[recorded.schema].format(backend)
    world.providers.always[backend.replace("ollama_chat", "ollama")] = recorded.script()
    base = base.replace("ollama_chat", "ollama")
    direct = world.anthropic(base) if recorded.schema == "anthropic" else world.openai(base)
    expected = OWN[recorded.schema](direct, MODELS[backend], recorded.stream)
    assert expected.complete
    clients = {chat: world.openai(), messages: world.anthropic(), responses: world.openai()}
    for ask, client in clients.items():
        if "responses" in (recorded.schema, ask.__name__) and backend == "openai" and ask is not OWN[recorded.schema]:
            continue  # OpenAI gets responses as responses, and all else as chat
        assert ask(client, f"{backend}/{MODELS[backend]}", recorded.stream) == expected, ask.__name__
