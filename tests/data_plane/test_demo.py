"""The demo's backends as a newcomer gets them: a real llama.cpp with a tiny model, and a stand-in cloud."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extproc.demo import cloud, llama_server, tiny_qwen3
from tests.free_ports import free_port
from tests.real_llama import LACKS, needs_llama

HELLO: dict[str, Any] = {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
OPENAI_TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
ANTHROPIC_TOOL = {"name": "get_weather", "input_schema": PARAMETERS}


@contextlib.contextmanager
def running(argv: list[str], ready: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; it is ready when `ready` answers 200."""
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not answers(ready):
            assert process.poll() is None, f"{argv} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{argv} is not ready"
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        finally:
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return answer.status == 200
    except OSError:
        return False


def post(url: str, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def ask(url: str, **fields: Any) -> dict[str, Any]:
    status, _, body = post(url, HELLO | fields)
    assert status == 200, body
    return json.loads(body)


def events(body: bytes) -> list[dict[str, Any]]:
    """The JSON data of every event of a stream."""
    data = [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(item) for item in data if item != "[DONE]"]


# --- the local model ------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen3.ensure(tmp_path_factory.mktemp("tiny") / "chat.gguf")


@pytest.fixture(scope="module")
def llama(model: Path) -> Iterator[str]:
    if LACKS:
        pytest.skip(LACKS)
    port = free_port()
    with running(llama_server.command(model, port, "tiny", "--threads", "1"), f"http://127.0.0.1:{port}/health"):
        yield f"http://127.0.0.1:{port}"


def test_model_is_built_once(model: Path) -> None:
    """`ensure` leaves an existing file alone, and building leaves nothing else behind."""
    before = model.stat().st_mtime_ns
    assert tiny_qwen3.ensure(model) == model
    assert model.stat().st_mtime_ns == before
    assert list(model.parent.iterdir()) == [model]


def test_failed_build_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that breaks half-way leaves neither the model nor its temporary file."""
    monkeypatch.setattr(tiny_qwen3, "TEMPLATE", tmp_path / "missing.jinja")
    with pytest.raises(FileNotFoundError):
        tiny_qwen3.build(tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


def test_local_model_gives_the_known_answer(llama: str) -> None:
    """The real llama.cpp thinks and answers the known text under the alias, and counts Qwen's tokens."""
    answer = ask(f"{llama}/v1/chat/completions")
    message = answer["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == (tiny_qwen3.THOUGHT, tiny_qwen3.ANSWER)
    assert answer["model"] == "tiny"
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (9, 31, 40)


def test_local_model_streams_with_usage(llama: str) -> None:
    """A stream's pieces add up to the answer, and its last event counts the tokens."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    _, _, body = post(f"{llama}/v1/chat/completions", HELLO | options)
    chunks = events(body)
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == tiny_qwen3.ANSWER
    assert chunks[-1]["usage"]["completion_tokens"] == 31


def test_local_model_does_not_think_when_asked(llama: str) -> None:
    """A request may switch thinking off in the template, and then pays for the answer alone."""
    answer = ask(f"{llama}/v1/chat/completions", chat_template_kwargs={"enable_thinking": False})
    assert "reasoning_content" not in answer["choices"][0]["message"]
    assert answer["usage"]["completion_tokens"] == 16


def test_slots_share_the_whole_context(llama: str) -> None:
    """By default each slot may use the context that the model was trained with."""
    with urllib.request.urlopen(f"{llama}/slots", timeout=5) as answer:
        assert [slot["n_ctx"] for slot in json.load(answer)] == [tiny_qwen3.CONTEXT_LENGTH] * 2


@needs_llama
def test_tool_model_calls_the_tool(tmp_path: Path) -> None:
    """In tool mode llama.cpp parses the model's text into a tool call."""
    path, port = tmp_path / "tool.gguf", free_port()
    tiny_qwen3.build(path, "tool")
    argv = llama_server.command(path, port, "tool", "--no-think", "--threads", "1", "--ctx", "2048")
    with running(argv, f"http://127.0.0.1:{port}/health"):
        answer = ask(f"http://127.0.0.1:{port}/v1/chat/completions", tools=[OPENAI_TOOL])
    choice = answer["choices"][0]
    function = choice["message"]["tool_calls"][0]["function"]
    assert choice["finish_reason"] == "tool_calls"
    assert (function["name"], json.loads(function["arguments"])) == ("get_weather", {"city": "Paris"})


@needs_llama
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_ends_cleanly_on_a_signal(model: Path, number: signal.Signals) -> None:
    """SIGTERM and SIGINT stop the server with exit status 0."""
    port = free_port()
    argv = llama_server.command(model, port, "tiny", "--threads", "1")
    with running(argv, f"http://127.0.0.1:{port}/health") as process:
        process.send_signal(number)
        assert process.wait(timeout=20) == 0


def refusal(argv: list[str]) -> str:
    """Run a server that must refuse to start, and return what it says."""
    result = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    return result.stderr.strip()


def test_missing_model_is_one_line(tmp_path: Path) -> None:
    """A model that is not there is named in one line."""
    path = tmp_path / "none.gguf"
    argv = llama_server.command(path, free_port(), "x")
    assert refusal(argv) == f"Error: cannot read the model {path}: No such file or directory"


def test_other_file_is_one_line(tmp_path: Path) -> None:
    """A file of another format is refused before llama.cpp sees it."""
    path = tmp_path / "notes.gguf"
    path.write_text("not a model")
    assert refusal(llama_server.command(path, free_port(), "x")) == f"Error: {path} is not a GGUF file"


def test_missing_wheel_names_the_extra(model: Path) -> None:
    """Without xllamacpp the error says what to install."""
    hide = "import sys; sys.modules['xllamacpp'] = None; from extproc.demo.llama_server import main; main()"
    line = refusal([sys.executable, "-c", hide, str(model), "--port", "0", "--alias", "x"])
    assert line == "Error: serving a GGUF needs xllamacpp: pip install 'extproc[local]'"


def test_missing_system_library_is_named(model: Path) -> None:
    """Without the library that the wheel leaves to the system the error says which package has it."""
    lacking = ("from extproc.demo import llama_server as server; server.OPENMP = 'libnowhere.so.1'; "
               "server.main(prog_name='server')")
    line = refusal([sys.executable, "-c", lacking, str(model), "--port", "0", "--alias", "x"])
    assert line == "Error: llama.cpp needs libnowhere.so.1: apt-get install libgomp1"


# --- the stand-in cloud ------------------------------------------------------------


@pytest.fixture(scope="module")
def cloud_port() -> Iterator[int]:
    port = free_port()
    with running(cloud.command(port), f"{cloud.openai_url(port)}/models"):
        yield port


@pytest.fixture
def port(cloud_port: int) -> Iterator[int]:
    """The stand-in with no scenario queued, before and after."""
    yield cloud_port
    request = urllib.request.Request(cloud.scenario_url(cloud_port), method="DELETE")
    urllib.request.urlopen(request, timeout=5).close()


def suffer(port: int, **behavior: Any) -> None:
    """Queue what the next matching requests shall suffer."""
    assert post(cloud.scenario_url(port), {"behaviors": [behavior]})[0] == 201


def test_cloud_speaks_openai(port: int) -> None:
    """The stand-in answers an OpenAI chat with usage."""
    answer = ask(f"{cloud.openai_url(port)}/chat/completions")
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] > 0


def test_cloud_speaks_anthropic(port: int) -> None:
    """The stand-in answers an Anthropic message with usage."""
    answer = ask(f"{cloud.anthropic_url(port)}/v1/messages")
    assert answer["content"][0]["text"]
    assert answer["usage"]["output_tokens"] > 0


def test_cloud_calls_tools_in_both_formats(port: int) -> None:
    """An offered tool is called, in either format."""
    openai = ask(f"{cloud.openai_url(port)}/chat/completions", tools=[OPENAI_TOOL])
    assert openai["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"
    anthropic = ask(f"{cloud.anthropic_url(port)}/v1/messages", tools=[ANTHROPIC_TOOL])
    assert (anthropic["stop_reason"], anthropic["content"][0]["name"]) == ("tool_use", "get_weather")


def test_cloud_streams_openai_at_a_visible_pace(port: int) -> None:
    """An OpenAI stream is paced, and ends in the usage that was asked for."""
    started = time.monotonic()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    _, _, body = post(f"{cloud.openai_url(port)}/chat/completions", HELLO | options)
    chunks = events(body)
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    assert time.monotonic() - started > (len(chunks) - 3) * cloud.CHUNK_DELAY_MS / 1000


def test_cloud_streams_anthropic(port: int) -> None:
    """An Anthropic stream begins with message_start, counts at its end and closes with message_stop."""
    _, _, body = post(f"{cloud.anthropic_url(port)}/v1/messages", HELLO | {"stream": True})
    found = events(body)
    assert (found[0]["type"], found[-1]["type"]) == ("message_start", "message_stop")
    assert found[-2]["usage"]["output_tokens"] > 0


def test_cloud_is_overloaded_on_demand(port: int) -> None:
    """Two queued 529 fail two requests in Anthropic's words; the third is served."""
    suffer(port, type="fail", status=529, times=2)
    answers = [post(f"{cloud.anthropic_url(port)}/v1/messages", HELLO) for _ in range(3)]
    assert [status for status, _, _ in answers] == [529, 529, 200]
    assert json.loads(answers[0][2])["error"]["type"] == "overloaded_error"


def test_cloud_limits_the_rate_on_demand(port: int) -> None:
    """A queued 429 carries its retry-after, and strikes only the model that it names."""
    suffer(port, type="fail", status=429, retry_after=30, match={"model": "gpt-*"})
    url = f"{cloud.openai_url(port)}/chat/completions"
    assert post(url, HELLO)[0] == 200
    status, headers, _ = post(url, HELLO | {"model": "gpt-5.6"})
    assert (status, headers["retry-after"]) == (429, "30")


def test_cloud_stalls_a_stream_on_demand(port: int) -> None:
    """A queued stall silences a stream for its time, then the stream goes on to its end."""
    suffer(port, type="stream_fault", kind="stall", after_chunks=1, stall_seconds=1)
    started = time.monotonic()
    _, _, body = post(f"{cloud.openai_url(port)}/chat/completions", HELLO | {"stream": True})
    assert time.monotonic() - started > 1
    assert body.endswith(b"data: [DONE]\n\n")


def test_cloud_cuts_a_stream_on_demand(port: int) -> None:
    """A queued truncation ends a stream early without its terminator."""
    suffer(port, type="stream_fault", kind="truncate", after_chunks=2)
    _, _, body = post(f"{cloud.openai_url(port)}/chat/completions", HELLO | {"stream": True})
    assert len(events(body)) == 2
    assert b"[DONE]" not in body
