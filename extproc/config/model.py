"""The gateway.yaml model: strict and immutable."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from extproc.config.auth import AuthConfig
from extproc.config.explain import ExplainConfig
from extproc.config.learning import LearningConfig
from extproc.config.money import BudgetConfig, LimitConfig, MoneyConfig
from extproc.config.price import PriceConfig
from extproc.config.routing import RoutingConfig
from extproc.config.smart import SmartConfig
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


class ModelConfig(PriceConfig):
    """What is known of one model at one backend; anything left out is taken from the price catalogue."""

    context: int | None = Field(None, ge=1)
    max_output: int | None = Field(None, ge=1)
    default_max_tokens: int = Field(16384, ge=1)
    on_cut: Literal["seen", "timed", "full"] | None = None
    """What a stream that was cut is charged under a budget: the output that passed, what can have been made in that
    time, or all that was paid for. Left out, it is the second where reasoning is not shown, else the first."""
    most_tokens_per_second: int = Field(500, ge=1)
    """The fastest that this model makes output, reasoning included."""
    lacks: list[Feature] = []


class HealthConfig(Model):
    """How Envoy looks whether a model server is there; any answer below 500 says so."""

    path: Annotated[str, Field(pattern=r"^/[!-~]*$")] | None = None
    """On the server's host. Left out, it is the dialect's own; where that is not known, a connection is enough."""
    every: Annotated[Duration, Field(ge=1, le=3600)] = 5.0


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
    health: HealthConfig | Literal["off"] | None = None
    """Left out: checked as HealthConfig says if it is local, and not if it is a cloud."""
    capacity: int | None = Field(None, ge=1, le=100_000)
    """Requests that the server works on at once (such as OLLAMA_NUM_PARALLEL); beyond it others are tried first."""

    @property
    def checked(self) -> HealthConfig | None:
        """How Envoy checks its health; None: not at all."""
        if self.health == "off":
            return None
        return self.health or (HealthConfig() if self.location == "local" else None)

    @field_validator("base_url")
    @classmethod
    def _url(cls, value: str) -> str:
        if not re.match(r"^https?://[^/\s?#]+(/[^\s?#]*)?$", value):
            raise ValueError("expected http://HOST[:PORT][/PATH] or https://…")
        return value.rstrip("/")


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
    passive_health: bool = True
    """Whether backends that fail, refuse or have become slow of late go to the end of their chains."""


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
    learning: LearningConfig = LearningConfig()
    explain: ExplainConfig = ExplainConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    @model_validator(mode="before")
    @classmethod
    def _only_chain(cls, value: Any) -> Any:
        """Where there is one chain, the smart flow needs no telling where to go."""
        given = _mapping(value)
        chains, routing = _mapping(given.get("chains")), given.get("routing", {})
        smart = _mapping(routing).get("smart", {})
        if len(chains) != 1 or not isinstance(routing, dict) or not isinstance(smart, dict):
            return value
        targets = dict.fromkeys(SmartConfig().targets(), next(iter(chains)))
        return {**given, "routing": {**_mapping(routing), "smart": {**targets, **_mapping(smart)}}}


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
