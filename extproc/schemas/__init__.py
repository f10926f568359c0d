"""The schemas the gateway speaks. Adding one is adding its module and a line here."""

from __future__ import annotations

from extproc.schemas.anthropic_messages import AnthropicMessages
from extproc.schemas.base import ClientSchema, ProviderSchema, Schema
from extproc.schemas.count_tokens import CountTokens
from extproc.schemas.embeddings import Embeddings
from extproc.schemas.mistral_fim import MistralFim
from extproc.schemas.ollama_chat import OllamaChat
from extproc.schemas.openai_chat import OpenAIChat
from extproc.schemas.openai_completions import OpenAICompletions
from extproc.schemas.openai_responses import OpenAIResponses

SCHEMAS: dict[str, Schema] = {s.name: s for s in (
    OpenAIChat(), AnthropicMessages(), OpenAIResponses(), OpenAICompletions(), MistralFim(), Embeddings(),
    CountTokens())}
"""Spoken by clients and by backends."""

CLIENTS: dict[str, ClientSchema] = {**SCHEMAS}
PROVIDERS: dict[str, ProviderSchema] = {**SCHEMAS, OllamaChat.name: OllamaChat()}
