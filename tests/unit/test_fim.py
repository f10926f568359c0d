"""Fill in the middle: Mistral's codecs, prompt templates, and asking a chat model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.core import conversation as c
from extproc.core.answer import Reading, StreamAnswer, WholeAnswer
from extproc.core.errors import Problem, RequestError, UpstreamError
from extproc.core.usage import Tokens
from extproc.dialects import fim
from extproc.schemas import CLIENTS, PROVIDERS
from extproc.schemas.base import Target
from extproc.schemas.mistral_fim import MistralFim
from extproc.wire.sse import ServerSentEvent, SseDecoder

SCHEMA = MistralFim()
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
TOKENS = Tokens(input=5, output=2)


def parse(**fields: Any) -> c.Conversation:
    """Parse a request with these fields over a minimal one."""
    return SCHEMA.parse_request(json.dumps({"model": "codestral", "prompt": "p", **fields}).encode())


def completion(text: str = "p", suffix: str | None = None, **fields: Any) -> c.Conversation:
    """A neutral completion."""
    return c.Conversation("m", (c.Message("user", (c.Text(text),)),), task="completion",
                          prompt=c.Prompt(text, suffix), **fields)


def chunk(text: str = "", finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """One wire chunk."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "abc", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **fields}


def sse(*chunks: dict[str, Any]) -> bytes:
    """A stream of chunks with its end."""
    return b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in chunks) + b"data: [DONE]\n\n"


class TestMistral:
    """Mistral's own API."""

    def test_parse(self) -> None:
        """Everything the neutral model knows is kept; min_tokens is Mistral's own."""
        got = parse(suffix="s", max_tokens=7, min_tokens=2, stop=["x"], stream=True, random_seed=3, temperature=0.2,
                    top_p=0.5, metadata={"a": "b"})
        assert (got.task, got.prompt, got.max_tokens, got.stop) == ("completion", c.Prompt("p", "s"), 7, ("x",))
        assert (got.stream, got.seed, got.temperature, got.top_p) == (True, 3, 0.2, 0.5)
        assert (got.extras, got.unmapped, got.demands) == ({"metadata": {"a": "b"}}, ("min_tokens",), ())
        assert parse().max_tokens is None

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            (b"{", None), (b"[]", None), (b"\xff", None), (b'{"prompt":"p"}', "model"), (b'{"model":"m"}', "prompt"),
            (b'{"model":"m","prompt":["p"]}', "prompt"), (b'{"model":"","prompt":"p"}', "model"),
            (b'{"model":"m","prompt":"p","max_tokens":-1}', "max_tokens"),
            (b'{"model":"m","prompt":"p","suffix":1}', "suffix"),
        ],
    )
    def test_wrong_requests(self, body: bytes, param: str | None) -> None:
        """A wrong request names its field."""
        with pytest.raises(RequestError) as error:
            SCHEMA.parse_request(body)
        assert error.value.problem.param == param

    def test_render(self) -> None:
        """Mistral's names; what it lacks is named."""
        got = SCHEMA.render_request(
            completion("p", "s", max_tokens=50, stop=("a",), seed=1, user="me", stream=True, temperature=0.1,
                       extras={"metadata": {}, "presence_penalty": 0.5}), Target("codestral", 20))
        assert got.fields == {
            "model": "codestral", "prompt": "p", "suffix": "s", "max_tokens": 20, "stop": ("a",), "random_seed": 1,
            "metadata": {}, "stream": True, "temperature": 0.1}
        assert got.dropped == ("user", "presence_penalty")
        assert SCHEMA.render_request(completion(), Target("x")).fields == {"model": "x", "prompt": "p"}
        assert SCHEMA.refuses(completion(n=2)) == ("n",)

    def test_patch(self) -> None:
        """Only the model is replaced: usage is always reported."""
        assert SCHEMA.patch_request(b'{"model":"a", "stream":true}', Target("b")) == b'{"model":"b", "stream":true}'

    def test_stream_for_its_own_client(self) -> None:
        """Every chunk has a choice, and usage stands with the reason, as Mistral's clients expect."""
        renderer = SCHEMA.stream_renderer(model="m", created=1, fallback_id="f", include_usage=False)
        events = (c.Start(""), c.TextDelta("He"), c.UsageReport(TOKENS), c.Stop("length"), c.Done())
        out = [event.data for event in SseDecoder().feed(b"".join(map(renderer.feed, events)))]
        first, last = json.loads(out[0]), json.loads(out[1])
        assert out[2:] == [b"[DONE]"]
        assert first == {"id": "f", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [
            {"index": 0, "delta": {"content": "He"}, "finish_reason": None}]}
        assert last["choices"] == [{"index": 0, "delta": {"content": ""}, "finish_reason": "length"}]
        assert last["usage"]["total_tokens"] == 7

    @pytest.mark.parametrize("cut", [1, 10**6])
    def test_stream_for_a_completions_client(self, cut: int) -> None:
        """Chat-shaped chunks become text_completion chunks."""
        answer = StreamAnswer(Reading(CLIENTS["completions"], PROVIDERS["fim"], "m", 1, "cmpl-f"))
        data = sse(chunk("He"), chunk("llo", "length", usage=USAGE))
        out = b"".join(answer.feed(data[i : i + cut]) for i in range(0, len(data), cut))
        chunks = [json.loads(event.data) for event in SseDecoder().feed(out)[:-1]]
        assert [one["choices"][0]["text"] for one in chunks] == ["He", "llo", ""]
        assert {one["object"] for one in chunks} == {"text_completion"}
        assert answer.learnt.tokens == TOKENS

    def test_stream_from_completions(self) -> None:
        """And the other way round."""
        answer = StreamAnswer(Reading(CLIENTS["fim"], PROVIDERS["completions"], "m", 1, "f"))
        choice = {"index": 0, "text": "Hello", "finish_reason": "stop"}
        out = answer.feed(sse({"id": "cmpl-1", "choices": [choice]}, {"choices": [], "usage": USAGE}))
        chunks = [json.loads(event.data) for event in SseDecoder().feed(out)[:-1]]
        assert [one["choices"][0]["delta"]["content"] for one in chunks] == ["Hello", ""]
        assert chunks[-1]["usage"]["prompt_tokens"] == 5

    def test_whole_answers(self) -> None:
        """A chat completion both ways; nonsense is the provider's fault."""
        body = json.dumps({"id": "abc", "model": "m", "usage": USAGE, "choices": [
            {"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}]}).encode()
        answer = WholeAnswer(Reading(CLIENTS["completions"], PROVIDERS["fim"], "m", 1, "cmpl-f"))
        answer.feed(body)
        assert json.loads(answer.finish())["choices"][0]["text"] == "Hello"
        got = json.loads(SCHEMA.render_response(SCHEMA.parse_response(body), model="m", created=1, fallback_id="f"))
        assert got["choices"][0]["message"]["content"] == "Hello"
        with pytest.raises(UpstreamError):
            SCHEMA.parse_response(b"{}")

    def test_errors(self) -> None:
        """Mistral's two error shapes are read, and the client gets OpenAI's."""
        assert SCHEMA.parse_error(422, b'{"detail":[{"loc":["body"],"msg":"bad","type":"missing"}]}').http_status == 422
        body = b'{"object":"error","message":"no","type":"x","code":"1"}'
        assert SCHEMA.parse_error(400, body).message == "no"
        assert b'"error"' in SCHEMA.render_error(Problem("upstream", "x"), "r")
        assert SCHEMA.render_stream_error(Problem("upstream", "x"), "r").endswith(b"\n\n")
        assert SCHEMA.usage_in_event(ServerSentEvent(b"", b"[DONE]", b""))


class TestTemplate:
    """Prompts in the words of a model's family."""

    @pytest.mark.parametrize(
        ("model", "prompt", "stop"),
        [
            ("qwen2.5-coder:7b", "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>", "<|im_end|>"),
            ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>", "<|endoftext|>"),
            ("codellama:13b-code", "<PRE> P <SUF>S <MID>", "<EOT>"),
            ("meta/CodeLlama-7b-hf", "<PRE> P <SUF>S <MID>", "<EOT>"),
            ("bigcode/starcoder2-7b", "<fim_prefix>P<fim_suffix>S<fim_middle>", "<|endoftext|>"),
            ("deepseek-coder-v2:16b", "<｜fim▁begin｜>P<｜fim▁hole｜>S<｜fim▁end｜>", "<｜end▁of▁sentence｜>"),
            ("codestral-2501", "[SUFFIX]S[PREFIX]P", "[SUFFIX]"),
            ("codegemma:2b", "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>", "<|file_separator|>"),
            ("granite-code:3b", "<fim_prefix>P<fim_suffix>S<fim_middle>", "<|endoftext|>"),
            ("ibm-granite/granite-4.0-h-small", "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>", "<|end_of_text|>"),
        ],
    )
    def test_families(self, model: str, prompt: str, stop: str) -> None:
        """Each family's own markers, found by the model's name."""
        found = fim.template(model)
        assert found is not None
        built, stops = fim.build(found, "P", "S")
        assert built == prompt
        assert stop in stops

    @pytest.mark.parametrize("model", ["llama3.2", "gpt-oss:20b", "qwen3:8b", "mistral-small", "deepseek-v4-flash"])
    def test_models_without_one(self, model: str) -> None:
        """Chat models have no template."""
        assert fim.template(model) is None

    def test_parts_are_not_searched(self) -> None:
        """Text that looks like a marker or a slot stays where it is."""
        found = fim.template("codestral")
        assert found is not None
        assert fim.build(found, "[SUFFIX]{0}", "PREFIX")[0] == "[SUFFIX]PREFIX[PREFIX][SUFFIX]{0}"

    def test_as_template(self) -> None:
        """The suffix goes into the prompt; the client's stops come first."""
        got = fim.as_template(completion("P", "S", stop=("\n\n", "</s>"), max_tokens=9), "codestral")
        assert got.prompt == c.Prompt("[SUFFIX]S[PREFIX]P")
        assert got.stop == ("\n\n", "</s>", "[SUFFIX]", "[PREFIX]")
        assert got.max_tokens == 9
        rendered = PROVIDERS["completions"].render_request(got, Target("codestral"))
        assert "suffix" not in rendered.fields

    def test_as_template_without_a_suffix(self) -> None:
        """A plain continuation needs no template."""
        assert fim.as_template(completion("P"), "llama3") == completion("P")

    @pytest.mark.parametrize(("model", "demands"), [("llama3", ()), ("codestral", ("prompt:list",))])
    def test_as_template_refuses(self, model: str, demands: tuple[str, ...]) -> None:
        """A model without a template, or several prompts: the suffix must not be lost."""
        with pytest.raises(RequestError):
            fim.as_template(completion("P", "S", demands=demands), model)


class TestAsChat:
    """A completion as a chat."""

    def test_continuation(self) -> None:
        """The text as it is, between tags, with the settings kept."""
        got = fim.as_chat(completion("def f():\n    ", max_tokens=9, stop=("x",), temperature=0.1, stream=True))
        (message,) = got.messages
        (text,) = message.parts
        assert isinstance(text, c.Text)
        assert text.text.endswith("<text>\ndef f():\n    </text>")
        assert (got.task, got.prompt, got.max_tokens, got.stop, got.stream) == ("chat", None, 9, ("x",), True)

    def test_an_empty_suffix_is_none(self) -> None:
        """Editors send an empty suffix at the end of a file."""
        assert fim.as_chat(completion("a", "")).messages == fim.as_chat(completion("a")).messages

    def test_middle(self) -> None:
        """Both parts, each between its tags, which the text itself cannot close."""
        got = fim.as_chat(completion("a</before_text>{x}", "b"))
        (text,) = got.messages[0].parts
        assert isinstance(text, c.Text)
        assert text.text.endswith(
            "<before_text_>\na</before_text>{x}</before_text_>\n<after_text_>\nb</after_text_>")

    @pytest.mark.parametrize("wire", ["openai", "anthropic", "ollama"])
    def test_every_chat_schema_renders_it(self, wire: str) -> None:
        """What comes out is a chat like any other."""
        rendered = PROVIDERS[wire].render_request(fim.as_chat(completion("a", "b")), Target("m"))
        assert b"<before_text>" in rendered.body
        assert rendered.fields["messages"][0]["role"] == "user"

    def test_a_chat_stays(self) -> None:
        """A conversation is none of its business."""
        chat = c.Conversation("m", (c.Message("user", (c.Text("hi"),)),))
        assert fim.as_chat(chat) is chat


FENCED = "```python\ny = 2\n```"
CASES = [
    ("x = 1\n", "y = 2", "y = 2"),
    ("x = 1\n", FENCED, "y = 2"),
    ("x = 1\n", "\n \n" + FENCED + "\n", "y = 2"),
    ("x = 1\n", FENCED + "\n\nThis sets y.", "y = 2"),
    ("x = 1\n", "````\n```\na\n```\n````", "```\na\n```"),
    ("x = 1\n", "```\n```", ""),
    ("x = 1\n", "```\ny\n\n```", "y\n"),
    ("x = 1\n", "```python\ndef f():\n    '''\n    ```\n    '''\n```", "def f():\n    '''\n    ```\n    '''"),
    ("x = 1\n", "```python\ny = `a`\n``\nz", "y = `a`\n``\nz"),
    ("x = 1\n", "``", "``"),
    ("x = 1\n", "```py", "```py"),
    ("x = 1\n", "   y", "   y"),
    ("x = 1\n", " " * 500 + "y", " " * 500 + "y"),
    ("# Title ```\n", FENCED, FENCED),
    ("def fib(n):\n", "```python\ndef fib(n):\n    return n\n```", "    return n"),
    ("def fib(n):\n    return ", "return n + 1", "n + 1"),
    ("def fib(n):\n    return ", "    return n + 1", "n + 1"),
    ("def fib(n):\n    ", "def fib(n):\n    return n", "return n"),
    ("def fib(n):\n    return ", "retur", "retur"),
    ("}\n", "}\n}", "}\n}"),
    ("very ", "very good", "very good"),
    ("", "text", "text"),
]


class TestPlainText:
    """What chat models add to a bare text is taken off."""

    @staticmethod
    def run(filtered: fim.PlainText, answer: str, size: int) -> str:
        """The text that comes out when the answer comes in pieces of this size."""
        pieces = [answer[i : i + size] for i in range(0, len(answer), size)]
        events = [c.Start(), *map(c.TextDelta, pieces), c.Stop("end"), c.Done()]
        out = [one for event in events for one in filtered.feed(event)]
        assert [type(one) for one in out if not isinstance(one, c.TextDelta)] == [c.Start, c.Stop, c.Done]
        assert isinstance(out[-1], c.Done)
        return "".join(one.text for one in out if isinstance(one, c.TextDelta))

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 10**6])
    @pytest.mark.parametrize(("prefix", "answer", "expected"), CASES)
    def test_any_chunking_gives_the_same_text(self, prefix: str, answer: str, expected: str, size: int) -> None:
        """A fence around it, what follows the fence, and a repeated line; nothing else."""
        assert self.run(fim.PlainText(c.Prompt(prefix, "")), answer, size) == expected

    def test_without_the_prompt(self) -> None:
        """Only the fence can be known then."""
        assert self.run(fim.PlainText(), "```\ndef fib(n):\n    return n\n```", 1) == "def fib(n):\n    return n"

    def test_text_streams(self) -> None:
        """Text that cannot be a fence goes out at once; in a fence all but a possible last line does."""
        plain = fim.PlainText(c.Prompt("a"))
        assert plain.feed(c.TextDelta("He")) == (c.TextDelta("He"),)
        fenced = fim.PlainText(c.Prompt("a"))
        assert fenced.feed(c.TextDelta("```py\n")) == ()
        assert fenced.feed(c.TextDelta("a = 1\n")) == (c.TextDelta("a = 1"),)
        assert fenced.feed(c.TextDelta("b")) == (c.TextDelta("\nb"),)

    def test_other_events_pass(self) -> None:
        """Thinking and usage pass; a failure takes no held text with it."""
        plain = fim.PlainText()
        assert plain.feed(c.ThinkingDelta("hm")) == (c.ThinkingDelta("hm"),)
        plain.feed(c.TextDelta("``"))
        failure = c.Failure("upstream", "no")
        assert plain.feed(failure) == (failure,)
        assert plain.feed(c.Done()) == (c.Done(),)
