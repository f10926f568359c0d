"""The gateway.yaml model: strict and immutable."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from extproc.config.auth import AuthConfig
from extproc.config.money import BudgetConfig, LimitConfig, MoneyConfig
from extproc.config.values import Address, Duration, Model, Name, Size, Store, Workers

Feature = Literal["tools", "images", "documents", "json_schema", "thinking", "stream"]
FailoverCause = Literal[
    "connect", "reset", "429", "5xx", "overloaded", "first_event_timeout", "context_too_long", "credentials",
    "not_found",
]
DialectName = Literal["openai", "compatible", "anthropic", "deepseek", "mistral", "ollama", "vllm", "llamacpp"]
SPOKEN: dict[str, tuple[str, ...]] = {"anthropic": ("anthropic",), "ollama": ("ollama", "openai")}
"""The schemas of a dialect, its own first; of all others it is openai alone."""
MAX_CHAIN = 6


class ModelConfig(Model):
    """What is known of one model at one backend; anything left out is taken from the price catalogue."""

    context: int | None = Field(None, ge=1)
    max_output: int | None = Field(None, ge=1)
    default_max_tokens: int = Field(16384, ge=1)
    lacks: list[Feature] = []
    usd_per_million_input: float | None = Field(None, ge=0)
    usd_per_million_output: float | None = Field(None, ge=0)


class BackendConfig(Model):
    """One provider account or model server."""

    schema_: Literal["openai", "anthropic", "ollama"] | None = Field(None, alias="schema")
    dialect: DialectName | None = None
    """How the provider departs from its schema; left out, it is told from the host, or asked of a local server."""
    base_url: str
    location: Literal["cloud", "local"]
    api_key: str | None = Field(None, repr=False)
    provider: str | None = None
    note: str | None = None
    lacks: list[Feature] = []
    models: dict[str, ModelConfig] = {}

    @field_validator("base_url")
    @classmethod
    def _url(cls, value: str) -> str:
        if not re.match(r"^https?://[^/\s?#]+(/[^\s?#]*)?$", value):
            raise ValueError("expected http://HOST[:PORT][/PATH] or https://…")
        return value.rstrip("/")


class WhenConfig(Model):
    """Conditions of a rule; all that are given must hold."""

    header: dict[str, str] | None = None
    path: Literal["plain", "local", "smart"] | None = None
    model: str | None = None
    key: str | None = None
    team: str | None = None
    stream: bool | None = None
    tools: bool | None = None
    tokens_above: int | None = None


class RuleConfig(Model):
    """First match wins, before the smart flow."""

    when: WhenConfig
    route: str
    reason: str


class SmartConfig(Model):
    """Where `model: auto` goes for each class of request; `fim` (fill in the middle) is latency critical by default."""

    fim: str | None = None
    latency_critical: str = "cloud"
    cost_sensitive: str = "local"
    complex: str = "cloud"
    simple: str = "local"
    threshold: float = Field(default=0.5, ge=0, le=1)
    complex_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """In place of a threshold: the share of the requests judged by their text that goes to `complex`."""

    def targets(self) -> dict[str, str]:
        """The chain of each class of request, by its key."""
        return {"latency_critical": self.latency_critical, "cost_sensitive": self.cost_sensitive,
                "complex": self.complex, "simple": self.simple} | ({"fim": self.fim} if self.fim else {})


class RoutingConfig(Model):
    """The first routing: rules, then the smart flow."""

    smart: SmartConfig = SmartConfig()
    rules: list[RuleConfig] = []


class FailoverConfig(Model):
    """What moves a request to the next backend of its chain."""

    on: list[FailoverCause] = [
        "connect", "reset", "429", "5xx", "overloaded", "first_event_timeout", "context_too_long", "credentials",
        "not_found",
    ]
    first_event_timeout: Duration = 20.0
    answer_timeout: Duration = 600.0
    """Of an answer that is not streamed: it comes at its end, so no first event tells that work goes on."""
    silence_timeout: Duration = 60.0
    ping_interval: Duration = 10.0
    """A stream that waits for the last backend of its chain is kept alive with a ping this often."""
    connect_timeout: Duration = 2.0


class TelemetryConfig(Model):
    """Where spans and metrics are pushed to (OTLP over HTTP); nothing leaves the machine by default."""

    otlp_endpoint: str | None = None
    service_name: str = "extproc"


class GatewayConfig(Model):
    """The whole of gateway.yaml."""

    listen: Address = "127.0.0.1:10000"
    admin: Address = "127.0.0.1:10001"
    admin_grpc: Address = "127.0.0.1:10002"
    """Usage, records and budgets over gRPC for whoever can reach it: never for clients."""
    envoy_admin: Address = "127.0.0.1:9901"
    workers: Workers = "auto"
    redis: Store = "embedded"
    max_body: Size = 32 << 20
    auth: AuthConfig = AuthConfig()
    backends: dict[Name, BackendConfig] = Field(min_length=1)
    chains: dict[Name, list[str]] = Field(min_length=1)
    models: dict[str, str] = {"auto": "smart"}
    routing: RoutingConfig = RoutingConfig()
    failover: FailoverConfig = FailoverConfig()
    budgets: list[BudgetConfig] = []
    limits: list[LimitConfig] = []
    money: MoneyConfig = MoneyConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
