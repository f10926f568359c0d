"""What the SDKs ask of the gateway itself: keys in both headers, model lists, probes, warnings, the ledger."""

from __future__ import annotations

import hashlib
import http.client

import anthropic
import openai
import pytest

from extproc.dialects import DIALECTS
from tests.data_plane.conftest import running
from tests.data_plane.providers.answers import TEXT
from tests.data_plane.providers.claude import Anthropic
from tests.data_plane.providers.openai import OpenAI
from tests.data_plane.providers.server import Providers
from tests.data_plane.providers.world import BY_NAME, CONFIG, STAND_INS, World, running_world

KEY = "xp-key-of-a-developer"
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def _world():
    with running_world(llama=False) as found:
        yield found


@pytest.fixture(scope="module")
def locked():
    """A gateway that wants keys, with stand-ins that want their own."""
    providers = Providers(OpenAI(), Anthropic())
    auth = f"auth: {{{{mode: keys, keys: [{{{{name: dev, sha256: {hashlib.sha256(KEY.encode()).hexdigest()}}}}}]}}}}\n"
    template = CONFIG.replace("{llama}", "1").replace("{llama_tool}", "2") + auth
    try:
        with running(providers, template=template) as plane:
            world = World(plane, providers)
            yield world
            world.close()
    finally:
        providers.stop()


# ---------------------------------------------------------------- keys

NO_BEARER = {"authorization": anthropic.Omit(), "x-api-key": KEY, "anthropic-version": "2023-06-01"}
WAYS = {
    "bearer": {"api_key": KEY},
    "x-api-key": {"api_key": "any", "default_headers": NO_BEARER},
    "both, one of them wrong": {"api_key": "wrong", "default_headers": {"x-api-key": KEY}},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", ["anthropic/claude-sonnet-5", "openai/gpt-5-mini"])
def test_either_way_to_send_a_key(locked, way, model):
    """Anthropic's SDK gets in with its key in either header; the provider gets its own key and never the client's."""
    locked.reset()
    answer = locked.anthropic(**WAYS[way]).messages.create(model=model, max_tokens=50, messages=HELLO)
    assert answer.content[-1].text == TEXT
    assert KEY not in str(locked.providers.seen[-1].headers)
    locked.judged()  # the stand-in knows its own key only


def test_openai_key(locked):
    """OpenAI's SDK gets in with its key, and without a valid one it gets its own exception."""
    locked.reset()
    client = locked.openai(api_key=KEY)
    assert client.chat.completions.create(
        model="openai/gpt-5-mini", messages=HELLO).choices[0].message.content == TEXT
    assert client.models.list().data
    for call in (lambda c: c.chat.completions.create(model="openai/gpt-5-mini", messages=HELLO),
                 lambda c: c.responses.create(model="openai/gpt-5-mini", input="hi"), lambda c: c.models.list()):
        with pytest.raises(openai.AuthenticationError, match="API key"):
            call(locked.openai(api_key="wrong"))
    with pytest.raises(anthropic.AuthenticationError, match="API key"):
        locked.anthropic(api_key="wrong").messages.create(model="x", max_tokens=5, messages=HELLO)
    with pytest.raises(anthropic.AuthenticationError, match="API key"):
        locked.anthropic(api_key="wrong").messages.count_tokens(model="x", messages=HELLO)


# ---------------------------------------------------------------- models and probes


def test_models_of_openai(world):
    """`models.list` and `models.retrieve`, also of a name with slashes."""
    client = world.openai()
    names = [model.id for model in client.models.list()]
    assert {"auto", "vllm-first", "openrouter/Qwen/Qwen3-Coder-30B"} <= set(names)
    for name in names:
        assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError, match="unknown model"):
        client.models.retrieve("nobody/nothing")


def test_models_of_anthropic(world):
    """The same in Anthropic's shape, page for page."""
    client = world.anthropic()
    names = [model.id for model in client.models.list(limit=1000)]
    assert "openrouter/Qwen/Qwen3-Coder-30B" in names
    assert all(client.models.retrieve(name).display_name for name in names)
    with pytest.raises(anthropic.NotFoundError, match="unknown model"):
        client.models.retrieve("nobody/nothing")


@pytest.mark.parametrize(("method", "path", "status"), [
    ("HEAD", "/", 200), ("GET", "/", 200), ("HEAD", "/v1/models", 200), ("OPTIONS", "/", 204),
    ("OPTIONS", "/v1/messages", 204), ("OPTIONS", "/v1/chat/completions", 204), ("OPTIONS", "/v1/responses", 204),
    ("GET", "/v1/models/openrouter/Qwen/Qwen3-Coder-30B", 200),
    ("GET", "/v1/models/openrouter%2FQwen%2FQwen3-Coder-30B", 200), ("GET", "/v1/nothing", 404),
    ("GET", "/v1/messages", 404)])
def test_probes(world, method, path, status):
    """What clients probe before they ask: answered at once, with no body where none may be."""
    connection = http.client.HTTPConnection("127.0.0.1", world.plane.port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    assert answer.status == status
    assert (body == b"") == (method == "HEAD" or status == 204)
    if method == "OPTIONS":
        assert "POST" in answer.headers["allow"]


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_base_url_with_and_without_the_version(world, prefix):
    """OpenAI's SDK works with a base URL that ends in /v1, and with one that does not."""
    chat = world.openai(base_url=world.url + prefix).chat.completions
    assert chat.create(model="openai/gpt-5-mini", messages=HELLO).choices[0].message.content == TEXT


# ---------------------------------------------------------------- warnings and accounts


@pytest.mark.parametrize("row", STAND_INS[1:], ids=lambda row: row.dialect)
def test_warnings_name_what_was_lost(world, row):
    """A setting that a provider lacks is dropped and named; one that it has arrives, and nothing is named."""
    client = world.openai()
    raw = client.chat.completions.with_raw_response.create(model=row.chat, messages=HELLO, seed=7, top_p=0.5)
    warned, sent = raw.headers.get("x-extproc-warnings", ""), world.providers.seen[-1].json
    has = {"seed": "seed" in str(sent) or "random_seed" in sent, "top_p": "top_p" in str(sent)}
    assert {name: name in warned for name in has} == {name: not there for name, there in has.items()}


@pytest.mark.parametrize("row", STAND_INS, ids=lambda row: row.dialect)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_one_record_with_the_providers_own_count(world, row, stream):
    """Whatever the pair of schemas, the ledger holds one attempt with the tokens that the provider told."""
    client = world.anthropic()
    raw = client.messages.with_raw_response.create(
        model=row.chat, max_tokens=50, messages=HELLO, stream=stream)
    raw.http_response.read()
    rid = raw.headers["x-extproc-request-id"]
    [record] = [r for r in world.plane.records(rid) if r.admission.request_id == rid]
    [attempt] = record.attempts
    tokens = attempt.tokens
    assert (tokens.input + tokens.cache_read, tokens.output + tokens.reasoning) == (20, 9)
    assert record.admission.route == row.chat
    assert attempt.model_used == row.chat.partition("/")[2]


def test_the_named_dialects_are_all_there():
    """The tables have a row for every dialect that a configuration may name."""
    assert set(DIALECTS) <= set(BY_NAME)
