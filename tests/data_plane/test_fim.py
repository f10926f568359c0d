"""Fill in the middle, plain completions and embeddings, with the SDKs of OpenAI and Mistral, on every dialect."""

from __future__ import annotations

import openai
import pytest
from mistralai.client import Mistral
from mistralai.client.errors import SDKError

from tests.data_plane.providers.answers import MIDDLE, SPAN
from tests.data_plane.providers.world import World, running_world
from tests.real_llama import needs_llama

BEFORE, AFTER = "def add(a, b):\n    ", "\n\nprint(add(1, 2))"
GAP = {"prompt": BEFORE, "suffix": AFTER}
FILLING = {
    # model: the path that the provider is asked at, and how it is told of the gap
    "mistral/codestral-latest": ("/v1/fim/completions", GAP),
    "deepseek/deepseek-v4-flash": ("/beta/completions", GAP),
    "ollama/qwen2.5-coder": ("/v1/completions", GAP),
    "ollama_chat/qwen2.5-coder": ("/v1/completions", GAP),
    "vllm/Qwen/Qwen2.5-Coder-7B": (
        "/v1/completions", {"prompt": f"<|fim_prefix|>{BEFORE}<|fim_suffix|>{AFTER}<|fim_middle|>"}),
    "vllm/codellama-13b": ("/v1/completions", {"prompt": f"<PRE> {BEFORE} <SUF>{AFTER} <MID>"}),
    "openai/gpt-5-mini": ("/v1/chat/completions", None),
    "anthropic/claude-sonnet-5": ("/v1/messages", None),
    "compatible/some-model": ("/v1/chat/completions", None),
}
"""None: an instruction to a chat model, whose code fence is taken off again."""
each = pytest.mark.parametrize("model", FILLING)
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture(scope="module")
def _world():
    with running_world() as found:
        yield found


@pytest.fixture
def world(_world: World):
    """The gateway with fresh stand-ins, none of which may refuse a request."""
    _world.reset()
    yield _world
    _world.judged()


@pytest.fixture(scope="module")
def sdk(_world: World) -> openai.OpenAI:
    """OpenAI's SDK on the gateway."""
    return _world.openai()


@pytest.fixture(scope="module")
def mistral(_world: World):
    """Mistral's SDK on the gateway."""
    with Mistral(api_key="any", server_url=_world.url, timeout_ms=20000) as client:
        yield client


def check(world: World, model: str) -> None:
    """The provider was asked in its own way, and told the whole of the gap."""
    path, told = FILLING[model]
    seen = world.providers.seen[-1]
    assert seen.path == path
    if told is not None:
        assert {name: seen.json.get(name) for name in GAP} == {"prompt": None, "suffix": None} | told
    else:
        text = seen.body.decode()
        assert "def add(a, b)" in text
        assert "print(add(1, 2))" in text


@each
@both_ways
def test_openai_sdk(world, sdk, model, stream):
    """`completions.create` with a suffix gives the middle and its usage."""
    request = {"model": model, **GAP, "max_tokens": 2000, "temperature": 1, "stop": ["\n\n"]}
    if not stream:
        raw = sdk.completions.with_raw_response.create(**request)
        answer = raw.parse()
        [choice] = answer.choices
        assert (choice.text, choice.finish_reason, answer.object) == (MIDDLE, "stop", "text_completion")
        emulated = "emulated: suffix" in raw.headers.get("x-extproc-warnings", "")
        assert emulated == (FILLING[model][1] is not GAP)
    else:
        chunks = list(sdk.completions.create(**request, stream=True, stream_options={"include_usage": True}))
        assert "".join(c.choices[0].text for c in chunks if c.choices) == MIDDLE
        assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
        answer = chunks[-1]
    assert answer.usage.completion_tokens > 0
    check(world, model)


@each
@both_ways
def test_mistral_sdk(world, mistral, model, stream):
    """`fim.complete` and `fim.stream` give the middle and its usage."""
    request = {"model": model, **GAP, "max_tokens": 2000}
    if not stream:
        answer = mistral.fim.complete(**request)
        [choice] = answer.choices
        assert (choice.message.content, choice.finish_reason) == (MIDDLE, "stop")
    else:
        chunks = [event.data for event in mistral.fim.stream(**request)]
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == MIDDLE
        assert chunks[-1].choices[0].finish_reason == "stop"
        answer = chunks[-1]
    assert answer.usage.completion_tokens > 0
    check(world, model)


@pytest.mark.parametrize("model", [m for m in FILLING if "codellama" not in m])
@both_ways
def test_without_a_suffix(world, sdk, model, stream):
    """A plain completion goes on from its prompt."""
    answer = sdk.completions.create(model=model, prompt=BEFORE, max_tokens=2000, stream=stream)
    text = "".join(c.choices[0].text for c in answer) if stream else answer.choices[0].text
    assert text == MIDDLE
    assert BEFORE.strip() in world.providers.seen[-1].body.decode().replace("\\n", "\n")


@needs_llama
@both_ways
def test_real_llamacpp(world, sdk, stream):
    """A real llama.cpp takes the template of the model's family and the stop strings that belong to it."""
    answer = sdk.completions.create(model="llama/qwen2.5-coder-tiny", **GAP, max_tokens=4, stream=stream)
    reasons = [c.choices[0].finish_reason for c in answer if c.choices] if stream else [answer.choices[0].finish_reason]
    assert reasons[-1] in ("stop", "length")


def test_model_without_a_template(world, sdk):
    """A model whose family is unknown is no candidate, and the error says why."""
    with pytest.raises(openai.BadRequestError, match="suffix"):
        sdk.completions.create(model="vllm/qwen3-8b", **GAP)
    assert world.providers.seen == []


def test_error_in_mistrals_sdk(world, mistral):
    """An error of the gateway is one that Mistral's SDK can read."""
    with pytest.raises(SDKError, match="unknown model"):
        mistral.fim.complete(model="nobody/nothing", prompt="x")


@pytest.mark.parametrize("model", ["mistral/codestral-latest", "vllm/qwen2.5-coder"])
@both_ways
def test_same_as_from_the_provider(world, mistral, sdk, model, stream):
    """What an SDK gets through the gateway is what it gets from the provider itself."""
    name, _, own = model.partition("/")
    url = f"http://127.0.0.1:{world.providers.port}/{name}"
    found = []
    if name == "mistral":
        with Mistral(api_key="sk-mistral", server_url=url) as direct:
            for client, asked in ((direct, own), (mistral, model)):
                answer = (list(client.fim.stream(model=asked, **GAP)) if stream else
                          [client.fim.complete(model=asked, **GAP)])
                found.append([getattr(item, "data", item).model_dump() for item in answer])
    else:
        for client, asked in ((world.openai(f"/{name}/v1"), own), (sdk, model)):
            answer = client.completions.create(model=asked, prompt=BEFORE, stream=stream)
            found.append([item.model_dump() for item in (answer if stream else [answer])])
    assert found[1] == found[0]


# ---------------------------------------------------------------- embeddings


@pytest.mark.parametrize("model", ["openai/text-embedding-3-small", "mistral/mistral-embed", "ollama/nomic", "vllm/e5",
                                   "ollama_chat/nomic", "compatible/some"])
def test_embeddings(world, sdk, model):
    """Vectors come as the provider gave them, for one text and for several."""
    one = sdk.embeddings.create(model=model, input="hi", encoding_format="float")
    assert (one.data[0].embedding, one.usage.prompt_tokens) == (list(SPAN), 4)
    several = sdk.embeddings.create(model=model, input=["a", "b"])
    assert [item.index for item in several.data] == [0, 1]


@pytest.mark.parametrize("model", ["anthropic/claude-sonnet-5", "deepseek/deepseek-v4-flash"])
def test_no_embeddings(world, sdk, model):
    """A provider without embeddings is no candidate, and the error says so."""
    with pytest.raises(openai.BadRequestError, match="cannot do embeddings"):
        sdk.embeddings.create(model=model, input="hi")
    assert world.providers.seen == []


@needs_llama
def test_real_llamacpp_has_no_embeddings(world, sdk):
    """The error of a llama.cpp that was started without embeddings reaches the client as an error of its own."""
    with pytest.raises(openai.APIStatusError, match=r"(?i)embedding"):
        sdk.embeddings.create(model="llama/tiny", input="hi")
