"""What a machine offers: cloud keys in the environment, model servers on their usual ports; else the demo."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from extproc.up.detect import detect


class Cloud(msgspec.Struct, frozen=True):
    """A provider that is used when its key is in the environment. `strong` and `fast` are its models for chains."""

    name: str
    variable: str
    dialect: str
    base_url: str
    provider: str
    model: str


CLOUDS = (
    Cloud("claude", "ANTHROPIC_API_KEY", "anthropic", "https://api.anthropic.com", "anthropic", "claude-sonnet-5"),
    Cloud("gpt", "OPENAI_API_KEY", "openai", "https://api.openai.com/v1", "openai", "gpt-5.6"),
    Cloud("deepseek", "DEEPSEEK_API_KEY", "deepseek", "https://api.deepseek.com", "deepseek", "deepseek-v4-flash"),
    Cloud("codestral", "CODESTRAL_API_KEY", "mistral", "https://codestral.mistral.ai/v1", "mistral",
          "codestral-latest"),
)
ANY_TEXT = "any-text"
"""What the screen gives clients for a key. Exported in the shell that starts the next gateway, it is nobody's key."""
LOCALS = (("ollama", 11434), ("llamacpp", 8080), ("vllm", 8000))


class Found(msgspec.Struct, frozen=True):
    """One backend for the generated configuration."""

    name: str
    dialect: str
    base_url: str
    location: str
    model: str
    api_key: str | None = None
    provider: str | None = None
    note: str = ""


def clouds(env: Mapping[str, str]) -> list[Found]:
    """The providers whose key is set; the key itself stays in the environment."""
    return [
        Found(c.name, c.dialect, c.base_url, "cloud", c.model, f"${{{c.variable}}}", c.provider,
              f"key from {c.variable}")
        for c in CLOUDS if env.get(c.variable, ANY_TEXT) not in ("", ANY_TEXT)
    ]


async def local_servers() -> list[Found]:
    """The model servers on their usual ports, with what they say they are."""
    found = await asyncio.gather(*[_probe(name, port) for name, port in LOCALS])
    return [f for f in found if f is not None]


async def _probe(name: str, port: int) -> Found | None:
    url = f"http://127.0.0.1:{port}/v1"
    said = await detect(url)
    if said is None or not said.models:
        return None  # nothing there, no model server, or one without a model
    return Found(name, said.dialect, url, "local", said.models[0], note=f"found on port {port}")


def configuration(found: list[Found]) -> str:
    """A gateway.yaml for these backends: cloud first in `cloud`, local first in `local`, the other as last resort."""
    cloud = [f"{f.name}/{f.model}" for f in found if f.location == "cloud"]
    local = [f"{f.name}/{f.model}" for f in found if f.location == "local"]
    backends: dict[str, dict[str, object]] = {}
    for f in found:
        entry: dict[str, object] = {"dialect": f.dialect, "base_url": f.base_url, "location": f.location}
        entry |= {k: v for k, v in (("api_key", f.api_key), ("provider", f.provider), ("note", f.note)) if v}
        backends[f.name] = entry
    models = {"auto": "smart", "claude-*": "cloud", "gpt-*": "cloud"}
    text = {
        "backends": backends,
        "chains": {"cloud": [*cloud, *local][:6], "local": [*local, *cloud][:6]},
        "models": models,
        # Claude Code, Codex and editors wait for a person; a cold local model may take a while for its first word.
        "failover": {"first_event_timeout": "60s" if local else "20s"},
    }
    return msgspec.json.format(msgspec.json.encode(text), indent=2).decode()
