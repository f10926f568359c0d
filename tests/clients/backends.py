"""The backends behind the gateway: a row is a name, the entry in gateway.yaml (PORT is filled in), a model, a stand-in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.clients import scripted
from tests.clients.providers import Aimock, Llama, Reply, StandIn, Task
from tests.data_plane.upstream import Seen

PROVIDER_KEY = "sk-of-the-provider"
CLOUD = f'location: cloud, api_key: {PROVIDER_KEY}, base_url: "http://127.0.0.1:PORT'
LOCAL = 'location: local, health: "off", base_url: "http://127.0.0.1:PORT'


@dataclass(frozen=True)
class Backend:
    """One row.

    `tools` is False where the model cannot be told what to say: then one plain turn is all.
    `tokens` is what each record must hold exactly, where the stand-in's usage is known.
    """

    name: str
    entry: str
    model: str
    stand_in: Callable[[], StandIn]
    tools: bool = True
    tokens: dict[str, int] | None = None


def _said(answer: Callable[[Seen, Task], Reply]) -> Callable[[], StandIn]:
    return lambda: StandIn(answer)


BACKENDS = (
    Backend("openai", f'dialect: openai, provider: openai, {CLOUD}/v1"', "gpt-5-mini", Aimock),
    Backend("anthropic", f'dialect: anthropic, provider: anthropic, {CLOUD}"', "claude-sonnet-5", Aimock),
    Backend("thinker", f'dialect: anthropic, provider: anthropic, {CLOUD}"', "claude-opus-5", _said(scripted.anthropic), tokens=scripted.ANTHROPIC_TOKENS),
    Backend("reasoner", f'dialect: compatible, {CLOUD}/v1"', "reasoner", _said(scripted.openai), tokens=scripted.OPENAI_TOKENS),
    Backend("deepseek", f'dialect: deepseek, provider: deepseek, {CLOUD}"', "deepseek-v4-flash", _said(scripted.deepseek), tokens=scripted.OPENAI_TOKENS),
    Backend("mistral", f'dialect: mistral, provider: mistral, {CLOUD}"', "mistral-large-latest", _said(scripted.mistral), tokens=scripted.OPENAI_TOKENS),
    Backend("vllm", f'dialect: vllm, {LOCAL}/v1"', "qwen3-coder", _said(scripted.openai), tokens=scripted.OPENAI_TOKENS),
    Backend("ollama", f'dialect: ollama, {LOCAL}"', "qwen3-coder", _said(scripted.ollama), tokens=scripted.OLLAMA_TOKENS),
    Backend("llamacpp", f'dialect: llamacpp, {LOCAL}/v1"', Llama.ALIAS, Llama, tools=False),
)
