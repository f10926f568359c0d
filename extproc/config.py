"""The gateway.yaml model: strict, immutable; every error names the file, the line, the path and what is allowed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import pydantic
from pydantic import BaseModel, ConfigDict, Field, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SHA256 = r"^[0-9a-f]{64}$"
Name = Annotated[str, Field(pattern=NAME)]
Feature = Literal["tools", "images", "documents", "json_schema", "thinking", "stream"]
FailoverCause = Literal[
    "connect", "reset", "429", "5xx", "overloaded", "first_event_timeout", "context_too_long", "credentials",
    "not_found",
]
DialectName = Literal["openai", "compatible", "anthropic", "deepseek", "mistral", "ollama", "vllm", "llamacpp"]
SPOKEN: dict[str, tuple[str, ...]] = {"anthropic": ("anthropic",), "ollama": ("ollama", "openai")}
"""The schemas of a dialect, its own first; of all others it is openai alone."""
MAX_CHAIN = 6
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h)$")
_SIZE = re.compile(r"^(\d+)(KiB|MiB|GiB|KB|MB|GB|B)?$")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZES = {None: 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class ConfigError(Exception):
    """The configuration is unusable; `lines` says where and why, one finding each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def _duration(value: object) -> object:
    if isinstance(value, str) and (match := _DURATION.match(value)):
        return float(match[1]) * _UNITS[match[2]]
    raise ValueError("expected a duration such as 250ms, 20s, 5m")


def _size(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (match := _SIZE.match(value)):
        return int(match[1]) * _SIZES[match[2]]
    raise ValueError("expected a size such as 512KiB, 32MiB")


def _workers(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 64):
        return value
    raise ValueError("expected a whole number from 1 to 64, or auto")


def _redis(value: str) -> str:
    if value == "embedded" or re.match(r"^(rediss?|unix)://.", value):
        return value
    raise ValueError("expected embedded, redis://…, rediss://… or unix://…")


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("expected HOST:PORT, such as 127.0.0.1:10000")
    return value


Duration = Annotated[float, pydantic.BeforeValidator(_duration)]
Size = Annotated[int, pydantic.BeforeValidator(_size)]
Address = Annotated[str, pydantic.AfterValidator(_address)]
Workers = Annotated[int | Literal["auto"], pydantic.BeforeValidator(_workers)]
Store = Annotated[str, pydantic.AfterValidator(_redis)]


class _Model(BaseModel):
    # Strict: no coercion, so that `port: "80"` or `yes` cannot mean something else. Frozen: swapped whole.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ModelConfig(_Model):
    """What is known of one model at one backend; anything left out is taken from the price catalogue."""

    context: int | None = Field(None, ge=1)
    max_output: int | None = Field(None, ge=1)
    default_max_tokens: int = Field(16384, ge=1)
    lacks: list[Feature] = []
    usd_per_million_input: float | None = Field(None, ge=0)
    usd_per_million_output: float | None = Field(None, ge=0)


class BackendConfig(_Model):
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


class KeyConfig(_Model):
    """A gateway key, known by its hash only (`extproc keys create` makes both)."""

    name: Name
    sha256: str = Field(pattern=SHA256)
    team: str = "default"
    project: str = ""
    user: str = ""
    routes: list[str] | None = None


class AuthConfig(_Model):
    """Who may call: `none` is for loopback only."""

    mode: Literal["none", "keys"] = "none"
    org: str = "default"
    keys: list[KeyConfig] = []


class WhenConfig(_Model):
    """Conditions of a rule; all that are given must hold."""

    header: dict[str, str] | None = None
    path: Literal["plain", "local", "smart"] | None = None
    model: str | None = None
    key: str | None = None
    team: str | None = None
    stream: bool | None = None
    tools: bool | None = None
    tokens_above: int | None = None


class RuleConfig(_Model):
    """First match wins, before the smart flow."""

    when: WhenConfig
    route: str
    reason: str


class SmartConfig(_Model):
    """Where `model: auto` goes for each class of request; `fim` (fill in the middle) is latency critical by default."""

    fim: str | None = None
    latency_critical: str = "cloud"
    cost_sensitive: str = "local"
    complex: str = "cloud"
    simple: str = "local"
    threshold: float = Field(default=0.5, ge=0, le=1)

    def targets(self) -> dict[str, str]:
        """The chain of each class of request, by its key."""
        return {"latency_critical": self.latency_critical, "cost_sensitive": self.cost_sensitive,
                "complex": self.complex, "simple": self.simple} | ({"fim": self.fim} if self.fim else {})


class RoutingConfig(_Model):
    """The first routing: rules, then the smart flow."""

    smart: SmartConfig = SmartConfig()
    rules: list[RuleConfig] = []


class FailoverConfig(_Model):
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


class TelemetryConfig(_Model):
    """Where spans and metrics are pushed to (OTLP over HTTP); nothing leaves the machine by default."""

    otlp_endpoint: str | None = None
    service_name: str = "extproc"


class GatewayConfig(_Model):
    """The whole of gateway.yaml."""

    listen: Address = "127.0.0.1:10000"
    admin: Address = "127.0.0.1:10001"
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
    telemetry: TelemetryConfig = TelemetryConfig()


# ------------------------------------------------------------------------------------------------ loading

def load(path: Path, env: Mapping[str, str] = os.environ, *, folder: Path | None = None) -> GatewayConfig:
    """Read and validate a gateway.yaml; `file:` secrets are relative to `folder` (default: the file's own).

    Raises:
        ConfigError: with one line per finding, each naming file, line, path and what is allowed.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text"]) from error
    return parse(text, str(path), folder or path.parent, env)


def parse(text: str, name: str, folder: Path, env: Mapping[str, str] = os.environ) -> GatewayConfig:
    """Validate the text of a gateway.yaml; `file:` secrets are relative to `folder`. Raises ConfigError."""
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = (error.problem or "cannot be read").split("\n")[0]
        if problem.startswith("but ") and error.context:
            problem = f"{error.context}, {problem}"
        if isinstance(error, DuplicateKeyError):  # its text quotes both values, and they may be secrets
            problem = problem.partition(" with value ")[0]
        raise ConfigError([f"{name}:{line}: not valid YAML: {problem}"]) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise ConfigError([f"{name}:1: not valid YAML"]) from error
    if not isinstance(tree, CommentedMap):
        raise ConfigError([f"{name}:1: expected a mapping with backends and chains"])
    findings: list[str] = []
    try:
        filled = _fill(tree, (), env, folder, findings, tree, name)
    except RecursionError as error:
        raise ConfigError([f"{name}:1: an alias contains itself"]) from error
    if findings:
        raise ConfigError(findings)
    try:
        config = GatewayConfig.model_validate(filled)
    except pydantic.ValidationError as error:
        raise ConfigError([_explain(item, tree, name) for item in error.errors()]) from error
    findings = [f"{name}:{_line(tree, path)}: {_dotted(path)}: {text}" for path, text in _references(config)]
    if findings:
        raise ConfigError(findings)
    return config


def _fill(value: Any, path: tuple[str | int, ...], env: Mapping[str, str], folder: Path,
          findings: list[str], tree: CommentedMap, name: str) -> Any:
    """Replace ${VAR}, ${VAR:-default} and file: secrets; collect what is missing."""
    if isinstance(value, CommentedMap):
        return {str(k): _fill(v, (*path, str(k)), env, folder, findings, tree, name) for k, v in value.items()}
    if isinstance(value, CommentedSeq):
        return [_fill(v, (*path, i), env, folder, findings, tree, name) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    where = f"{name}:{_line(tree, path)}: {_dotted(path)}"

    def variable(match: re.Match[str]) -> str:
        found = env.get(match[1]) or match[2]
        if found is None:
            findings.append(f"{where}: environment variable {match[1]} is not set; export it or write "
                            f"${{{match[1]}:-default}}")
            return ""
        return found

    text = _VARIABLE.sub(variable, str(value))
    if path and path[-1] == "api_key" and text.startswith("file:"):
        try:
            return (folder / text[5:]).read_text("utf-8").strip()
        except OSError as error:
            findings.append(f"{where}: secret file {text[5:]} cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            findings.append(f"{where}: secret file {text[5:]} is not UTF-8 text")
    return text


def _dotted(path: tuple[str | int, ...]) -> str:
    out = ""
    for step in path:
        out += f"[{step}]" if isinstance(step, int) else f".{step}" if out else step
    return out or "(top)"


def _line(tree: CommentedMap, path: tuple[str | int, ...]) -> int:
    """The line of the deepest node of `path` that the file has."""
    node: Any = tree
    line = 1
    for step in path:
        if isinstance(node, CommentedMap) and step in node:
            line = int(cast(Any, node).lc.key(step)[0]) + 1
            node = node[step]
        elif isinstance(node, CommentedSeq) and isinstance(step, int) and step < len(node):
            line = int(cast(Any, node).lc.item(step)[0]) + 1
            node = node[step]
        else:
            break
    return line


def _fields_at(path: tuple[str | int, ...]) -> list[str]:
    """The keys the model allows in the mapping that `path` points into."""
    model: type[BaseModel] = GatewayConfig
    for step in path:
        field = next((f for n, f in model.model_fields.items() if (f.alias or n) == step), None)
        if field is None:
            continue  # a mapping key or a list index
        inner = [t for t in _types(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)]
        if inner:
            model = inner[0]
    return sorted(f.alias or n for n, f in model.model_fields.items())


def _types(annotation: Any) -> list[Any]:
    inner = getattr(annotation, "__args__", ())
    return [annotation, *[t for arg in inner for t in _types(arg)]]


_EXPECTED = {
    "string_type": "text", "bool_type": "true or false", "int_type": "a whole number", "float_type": "a number",
    "list_type": "a list", "dict_type": "a mapping", "model_type": "a mapping", "finite_number": "a finite number",
}
_PATTERNS = {
    NAME: "a name of up to 64 letters, digits, dots, dashes and underscores",
    SHA256: "64 hexadecimal digits, as printed by: extproc keys create",
}


def _explain(item: Any, tree: CommentedMap, name: str) -> str:
    """One line for one pydantic finding: where, what, and what is allowed."""
    path = tuple(step for step in item["loc"] if step != "[key]")
    where = f"{name}:{_line(tree, path)}: {_dotted(path)}"
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = _fields_at(path[:-1])
        close = get_close_matches(str(path[-1]), allowed, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{where}: unknown key; {hint}allowed: {', '.join(allowed)}"
    if kind == "missing":
        return f"{where}: is required"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return f"{where}: allowed: {', '.join(allowed)}"
    if kind == "too_short":
        return f"{where}: needs at least {context['min_length']} entry"
    if kind == "greater_than_equal":
        return f"{where}: expected a number of at least {context['ge']:g}"
    if kind == "less_than_equal":
        return f"{where}: expected a number of at most {context['le']:g}"
    expected = _EXPECTED.get(kind) or (_PATTERNS.get(context["pattern"]) if "pattern" in context else None)
    return f"{where}: expected {expected}" if expected else f"{where}: {str(item['msg']).removeprefix('Value error, ')}"


_Finding = tuple[tuple[str | int, ...], str]


def _references(config: GatewayConfig) -> list[_Finding]:
    """Names that must exist elsewhere in the file, and settings that exclude each other."""
    return [*_in_backends(config), *_in_chains(config), *_in_routes(config), *_in_settings(config)]


def _in_backends(config: GatewayConfig) -> list[_Finding]:
    found: list[_Finding] = []
    for name, backend in config.backends.items():
        if backend.schema_ is None and backend.dialect is None:
            found.append((("backends", name, "schema"), "is required, unless a dialect is given"))
        elif backend.schema_ is not None and backend.dialect is not None:
            spoken = SPOKEN.get(backend.dialect, ("openai",))
            if backend.schema_ not in spoken:
                found.append((("backends", name, "schema"),
                              f"dialect {backend.dialect} speaks: {', '.join(spoken)}"))
    return found


def _in_chains(config: GatewayConfig) -> list[_Finding]:
    found: list[_Finding] = []
    for chain, entries in config.chains.items():
        if chain == "smart":
            found.append((("chains", chain), "smart is the name of the smart flow; choose another"))
        if not 1 <= len(entries) <= MAX_CHAIN:
            found.append((("chains", chain), f"expected 1 to {MAX_CHAIN} entries, got {len(entries)}"))
        for index, entry in enumerate(entries):
            place = ("chains", chain, index)
            backend, _, model = entry.partition("/")
            if not backend or not model:
                found.append((place, f"expected BACKEND/MODEL, got {entry}"))
            elif backend not in config.backends:
                found.append((place, f"unknown backend {backend}; allowed: {', '.join(sorted(config.backends))}"))
            elif entry in entries[:index]:
                found.append((place, f"{entry} is already in this chain"))
    return found


def _in_routes(config: GatewayConfig) -> list[_Finding]:
    found: list[_Finding] = []
    chains = sorted(config.chains)
    places: list[_Finding] = [(("models", m), r) for m, r in config.models.items()]
    places += [(("routing", "rules", i, "route"), rule.route) for i, rule in enumerate(config.routing.rules)]
    places += [(("auth", "keys", i, "routes", j), route) for i, key in enumerate(config.auth.keys)
               for j, route in enumerate(key.routes or [])]
    for place, route in places:
        backend, _, model = route.partition("/")
        if route not in config.chains and route != "smart" and not (backend in config.backends and model):
            found.append((place, f"unknown chain {route}; allowed: {', '.join([*chains, 'smart'])}, or BACKEND/MODEL"))
    if any(route == "smart" for _, route in places):
        for field, route in config.routing.smart.targets().items():
            if route not in config.chains:
                found.append((("routing", "smart", field), f"unknown chain {route}; allowed: {', '.join(chains)}"))
    return found


def _in_settings(config: GatewayConfig) -> list[_Finding]:
    found: list[_Finding] = []
    host = config.listen.rpartition(":")[0]
    if config.auth.mode == "none" and host not in ("127.0.0.1", "[::1]", "localhost"):
        found.append((("listen",), f"{config.listen} is not loopback, and auth.mode none is for loopback only; "
                                   "use auth.mode keys, or 127.0.0.1, [::1] or localhost"))
    if config.auth.mode == "keys" and not config.auth.keys:
        found.append((("auth", "keys"), "mode keys needs at least one key; make one with: extproc keys create"))
    return found
