"""Real command-line agents work through the gateway on every kind of backend, and each request is accounted for."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from extproc.demo import tiny_qwen3
from extproc.pb import usage_pb2 as pb
from tests.clients import scripted
from tests.clients.agents import AGENTS, Agent, Job, Outcome, run
from tests.clients.backends import BACKENDS, PROVIDER_KEY, Backend
from tests.clients.conftest import KEY, Gateway
from tests.clients.providers import Aimock, StandIn, Task

ANSWER = "the notes say 0815"
SECRETS = ("content-of-a-4711", "content-of-b-4712", "content-of-c-4713")

each_agent = pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)
PAIRS = [(a, b) for b in BACKENDS for a in AGENTS if a.everywhere or b.name in ("openai", "anthropic")]


@each_agent
def test_without_gateway(agent: Agent, aimock: Aimock, tmp_path):
    """The control: the client does the task at the stand-in itself, so a failure elsewhere is the gateway's."""
    job = _job(f"http://127.0.0.1:{aimock.port}", "some-model", tmp_path)
    aimock.prepare(_task(agent, job))
    _answered(run(agent, job), ANSWER)
    _tools_ran(aimock)


@pytest.mark.parametrize(("agent", "backend"), PAIRS, ids=[f"{a.name}-{b.name}" for a, b in PAIRS])
def test_task(agent: Agent, backend: Backend, gateway: Gateway, tmp_path):
    """A client reads files by tool calls over several turns, prints the answer, and every request is settled once."""
    stand_in = gateway.stand_ins[backend.name]
    job = _job(gateway.base, backend.name, tmp_path)
    stand_in.prepare(_task(agent, job))
    before, logged = len(gateway.plane.records()), gateway.log_sizes()

    outcome = run(agent, job)

    _answered(outcome, ANSWER if backend.tools else tiny_qwen3.ANSWER)
    if backend.tools:
        _tools_ran(stand_in)
    _key_stayed(stand_in)
    _settled(agent, backend, gateway, before)
    _logged(gateway, logged, len(stand_in.seen))


@each_agent
@pytest.mark.timeout(240)
def test_session(agent: Agent, gateway: Gateway, tmp_path):
    """A session goes on: its history, tools and thoughts included, is taken again, by a provider of another schema."""
    backend = "reasoner" if agent.schema == "anthropic" else "thinker"
    stand_in = gateway.stand_ins[backend]
    job = _job(gateway.base, backend, tmp_path)
    stand_in.prepare(_task(agent, job))
    _answered(run(agent, job), ANSWER)
    stand_in.seen.clear()

    _answered(run(agent, replace(job, prompt="Say it once more", resume=True)), ANSWER)

    last = stand_in.seen[-1].body
    for text in (*SECRETS, ANSWER, "Say it once more"):
        assert text.encode() in last, text


@pytest.mark.parametrize("agent", [a for a in AGENTS if a.schema == "anthropic"], ids=lambda agent: agent.name)
def test_thoughts_return_signed(agent: Agent, gateway: Gateway, tmp_path):
    """What Claude thought before a call comes back with the call, with the signature unharmed."""
    stand_in = gateway.stand_ins["thinker"]
    job = _job(gateway.base, "thinker", tmp_path)
    stand_in.prepare(_task(agent, job))
    _answered(run(agent, job), ANSWER)
    thought = {"type": "thinking", "thinking": scripted.THOUGHT, "signature": scripted.SIGNATURE}
    turns = [m["content"] for m in stand_in.seen[-1].json["messages"] if m["role"] == "assistant"]
    assert [[b for b in turn if b["type"] == "thinking"] for turn in turns] == [[thought], [thought]]


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b.tokens], ids=lambda backend: backend.name)
def test_claude_code_sees_the_usage(backend: Backend, gateway: Gateway, tmp_path):
    """Claude Code sums up the tokens of its three requests as the provider counted them."""
    agent = AGENTS[0]
    job = _job(gateway.base, backend.name, tmp_path)
    gateway.stand_ins[backend.name].prepare(_task(agent, job))
    usage = json.loads(run(agent, job).out)["usage"]
    assert backend.tokens
    seen = {"input": usage["input_tokens"], "cache_read": usage["cache_read_input_tokens"], "output": usage["output_tokens"]}
    used = {"cache_read": 0, **backend.tokens, "output": backend.tokens["output"] + backend.tokens.get("reasoning", 0)}
    assert {name: 3 * used[name] for name in seen} == seen


def _job(base: str, model: str, folder: Path) -> Job:
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    for name, content in zip("abc", SECRETS, strict=True):
        (work / f"{name}.txt").write_text(content + "\n")
    return Job(base, KEY, model, "Read the files a.txt, b.txt and c.txt and say what they hold", home, work)


def _task(agent: Agent, job: Job) -> Task:
    """One call in the first turn, two at once in the second."""
    a, b, c = (agent.arguments(job.work / f"{name}.txt") for name in "abc")
    return Task(agent.tool, ((a,), (b, c)), ANSWER)


def _answered(outcome: Outcome, answer: str) -> None:
    """The client ended well and printed what the provider said."""
    assert outcome.code == 0, (outcome.out, outcome.err)
    assert answer in outcome.out, (outcome.out, outcome.err)


def _tools_ran(stand_in: StandIn) -> None:
    """The files' contents reached the provider, each in the turn after its call."""
    turns = [[secret for secret in SECRETS if secret.encode() in seen.body] for seen in stand_in.seen]
    assert [t for t in turns if t] == [list(SECRETS[:1]), list(SECRETS)], turns


def _key_stayed(stand_in: StandIn) -> None:
    """The client's key did not get past the gateway, in a header or in a body."""
    assert stand_in.seen
    for seen in stand_in.seen:
        assert KEY not in str(seen.headers), seen.path
        assert KEY.encode() not in seen.body, seen.path


def _settled(agent: Agent, backend: Backend, gateway: Gateway, before: int) -> None:
    """As many records as requests at the provider, each of one attempt with the provider's own counts."""
    requests = len(gateway.stand_ins[backend.name].seen)
    deadline = time.monotonic() + 5
    while len(found := gateway.plane.records()[before:]) < requests and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(found) == requests
    for record in found:
        assert (record.state, record.admission.client_schema, record.admission.key) == ("done", agent.schema, "agent")
        [attempt] = record.attempts
        assert (attempt.outcome, attempt.status, attempt.backend) == (pb.Attempt.EXACT, 200, backend.name), record
        tokens = {field.name: value for field, value in attempt.tokens.ListFields()}
        assert tokens == backend.tokens if backend.tokens else {"input", "output"} <= set(tokens), record


def _logged(gateway: Gateway, sizes: dict[str, int], requests: int) -> None:
    """The logs grew by facts (lines of JSON) only, one attempt per request, and tell no key and no file's content."""
    attempts = 0
    for name, text in gateway.log_growth(sizes).items():
        for secret in (KEY, PROVIDER_KEY, *SECRETS):
            assert secret not in text, (name, secret)
        for line in text.splitlines():
            assert line.startswith("{"), f"{name}: a warning or an error: {line}"
            attempts += json.loads(line).get("event") == "attempt"
    assert attempts == requests
