"""The dialects: how providers depart from the schema they speak. Adding one is adding its file and a line here."""

from __future__ import annotations

from urllib.parse import urlsplit

from extproc.dialects.anthropic import Anthropic
from extproc.dialects.base import Dialect
from extproc.dialects.compatible import Compatible
from extproc.dialects.deepseek import DeepSeek
from extproc.dialects.llamacpp import LlamaCpp
from extproc.dialects.mistral import Mistral
from extproc.dialects.ollama import Ollama, OllamaChat
from extproc.dialects.openai import OpenAI
from extproc.dialects.vllm import Vllm

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        OpenAI(), Anthropic(), DeepSeek(), Mistral(), Ollama(), OllamaChat(), Vllm(), LlamaCpp(), Compatible())
}


def by_host(base_url: str, schema: str) -> str | None:
    """The dialect of the provider at this URL, in this schema; None when the host tells none."""
    try:
        host = urlsplit(base_url).hostname
    except ValueError:
        return None
    return next(
        (name for name, dialect in DIALECTS.items() if dialect.schema == schema and host in dialect.hosts), None)
