"""The schemas the gateway speaks. Adding one is adding its module and a line here."""

from __future__ import annotations

from extproc.schemas.anthropic_messages import AnthropicMessages
from extproc.schemas.base import Schema
from extproc.schemas.openai_chat import OpenAIChat

SCHEMAS: dict[str, Schema] = {"openai": OpenAIChat(), "anthropic": AnthropicMessages()}
