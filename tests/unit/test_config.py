"""The gateway.yaml model: one bad file per message, and what a good file means."""

from __future__ import annotations

from pathlib import Path

import pydantic
import pytest

from extproc.config import ConfigError, load, parse

FILES = Path(__file__).parent.parent / "config"
TOP = (
    "admin, admin_grpc, auth, backends, budgets, chains, envoy_admin, failover, limits, listen, max_body, models, money, redis, "
    "routing, telemetry, workers"
)
MINIMAL = """
backends: {gpt: {schema: openai, base_url: "http://127.0.0.1:1/v1", location: cloud, api_key: KEY}}
chains: {cloud: [gpt/m], local: [gpt/m]}
"""
EXPECTED = [
    "alias_in_itself.yaml:2: backends.gpt: expected a mapping",
    "alias_in_list.yaml:7: redis: expected text",
    "bad_address.yaml:7: admin: expected HOST:PORT, such as 127.0.0.1:10000",
    "bad_auth_mode.yaml:7: auth.mode: allowed: none, keys, jwt",
    "bad_backend_name.yaml:3: backends.my qwen: expected a name of up to 64 letters, digits, dots, "
    "dashes and underscores",
    "bad_duration.yaml:7: failover.silence_timeout: expected a duration such as 250ms, 20s, 5m",
    "bad_location.yaml:3: backends.qwen.location: allowed: cloud, local",
    "bad_port.yaml:7: admin: expected HOST:PORT, such as 127.0.0.1:10000",
    "bad_redis.yaml:7: redis: expected embedded, redis://…, rediss://…, "
    "redis+cluster://HOST:PORT,… or unix://…",
    "bad_dialect.yaml:2: backends.gpt.dialect: allowed: openai, compatible, anthropic, deepseek, mistral, ollama, "
    "vllm, llamacpp",
    "bad_schema.yaml:2: backends.gpt.schema: allowed: openai, anthropic, ollama",
    "dialect_of_other_schema.yaml:2: backends.gpt.schema: dialect mistral speaks: openai",
    "smart_fim_unknown_chain.yaml:8: routing.smart.fim: unknown chain fast; allowed: cloud, local",
    "bad_sha256.yaml:7: auth.keys[0].sha256: expected 64 hexadecimal digits, as printed by: extproc keys create",
    "bad_size.yaml:7: max_body: expected a size such as 512KiB, 32MiB",
    "bad_url.yaml:2: backends.gpt.base_url: expected http://HOST[:PORT][/PATH] or https://…",
    "chain_empty.yaml:6: chains.local: expected 1 to 6 entries, got 0",
    "chain_entry_twice.yaml:9: chains.local[2]: qwen/q is already in this chain",
    "chain_entry_without_slash.yaml:6: chains.local[0]: expected BACKEND/MODEL, got qwen",
    "chain_named_smart.yaml:7: chains.smart: smart is the name of the smart flow; choose another",
    "chain_too_long.yaml:6: chains.local: expected 1 to 6 entries, got 7",
    "chain_unknown_backend.yaml:6: chains.local[0]: unknown backend qwem; allowed: gpt, qwen",
    "chains_empty.yaml:4: chains: needs at least 1 entry",
    "control_character.yaml:1: not valid YAML",
    'duplicate_key.yaml:7: not valid YAML: found duplicate key "backends"',
    'duplicate_secret.yaml:2: not valid YAML: found duplicate key "api_key"',
    "empty.yaml:1: expected a mapping with backends and chains",
    "jwks_bad_port.yaml:12: auth.jwt.jwks.uri: expected https://HOST[:PORT]/PATH; http:// is for loopback only",
    'jwks_empty.yaml:12: auth.jwt.jwks.inline: expected a JSON Web Key Set: {"keys": [...]} with at least one key',
    "jwks_fast_refresh.yaml:12: auth.jwt.jwks.refresh: expected a duration of at least 1s",
    "jwks_half_key.yaml:12: auth.jwt.jwks.inline: keys[0]: e: is required of RSA keys",
    "jwks_missing_file.yaml:12: auth.jwt.jwks.file: file nowhere.json cannot be read: No such file or directory",
    "jwks_no_place.yaml:12: auth.jwt.jwks: expected exactly one of uri, file, inline",
    'jwks_not_a_set.yaml:12: auth.jwt.jwks.inline: expected a JSON Web Key Set: {"keys": [...]} with at least one key',
    "jwks_not_json.yaml:12: auth.jwt.jwks.file: is not JSON",
    "jwks_plain_http.yaml:12: auth.jwt.jwks.uri: expected https://HOST[:PORT]/PATH; http:// is for loopback only",
    "jwks_private_key.yaml:12: auth.jwt.jwks.inline: keys[0]: is a secret key; give public keys only",
    "jwks_secret_key.yaml:12: auth.jwt.jwks.inline: keys[0]: is a secret key; give public keys only",
    "jwks_two_places.yaml:12: auth.jwt.jwks: expected exactly one of uri, file, inline",
    "jwks_unknown_kind.yaml:12: auth.jwt.jwks.inline: keys[0]: kty: allowed: EC, OKP, RSA",
    "jwt_bad_claim.yaml:13: auth.jwt.claims.team: expected the name of a claim, or names joined by dots, such as realm_access.team",
    "jwt_bad_skew.yaml:13: auth.jwt.clock_skew: expected whole seconds from 1s to 10m",
    "jwt_issuer_empty.yaml:10: auth.jwt.issuer: expected text without spaces around it",
    "jwt_missing.yaml:7: auth.jwt: mode jwt needs issuer, audiences and jwks here",
    "jwt_skew_too_long.yaml:13: auth.jwt.clock_skew: expected whole seconds from 1s to 10m",
    "jwt_unknown_claim.yaml:13: auth.jwt.claims.teams: unknown key; did you mean team? allowed: key, org, project, routes, team, user",
    "jwt_without_audience.yaml:11: auth.jwt.audiences: needs at least 1 entry",
    "jwt_without_issuer.yaml:9: auth.jwt.issuer: is required",
    "jwt_without_jwks.yaml:9: auth.jwt.jwks: is required",
    "jwt_without_mode.yaml:9: auth.jwt: is for mode jwt, but auth.mode is keys",
    "baseline_unknown.yaml:7: money.baseline: unknown backend gpd; expected BACKEND/MODEL, with one of: gpt, qwen",
    "missing_field.yaml:2: backends.gpt.schema: is required, unless a dialect is given",
    "missing_secret_file.yaml:2: backends.gpt.api_key: secret file nowhere.txt cannot be read: No such "
    "file or directory",
    "missing_variable.yaml:2: backends.gpt.api_key: environment variable EXTPROC_NOT_SET is not set; "
    "export it or write ${EXTPROC_NOT_SET:-default}",
    "misspelt_inner_key.yaml:7: failover.first_event_timeuot: unknown key; did you mean "
    "first_event_timeout? allowed: answer_timeout, connect_timeout, first_event_timeout, on, ping_interval, silence_timeout",
    f"misspelt_key.yaml:7: listn: unknown key; did you mean listen? allowed: {TOP}",
    "models_backend_only.yaml:7: models.fast: unknown chain gpt; allowed: cloud, local, smart, or BACKEND/MODEL",
    "models_unknown_chain.yaml:9: models.fast: unknown chain turbo; allowed: cloud, local, smart, or "
    "BACKEND/MODEL",
    "negative_price.yaml:3: backends.qwen.models.q.usd_per_million_input: expected a number of at least 0",
    "no_chains.yaml:1: chains: is required",
    "not_a_mapping.yaml:1: expected a mapping with backends and chains",
    "not_yaml.yaml:2: not valid YAML: expected ',' or ']', but got ':'",
    "number_too_large.yaml:7: routing.smart.threshold: expected a number of at most 1",
    "open_to_the_world.yaml:7: listen: 0.0.0.0:10000 is not loopback, and auth.mode none is for loopback "
    "only; use auth.mode keys, or 127.0.0.1, [::1] or localhost",
    "rule_unknown_route.yaml:10: routing.rules[0].route: unknown chain lokal; allowed: cloud, local, "
    "smart, or BACKEND/MODEL",
    "rule_without_reason.yaml:9: routing.rules[0].reason: is required",
    "smart_unknown_chain.yaml:9: routing.smart.complex: unknown chain huge; allowed: cloud, local",
    "tab_indent.yaml:2: not valid YAML: found character '\\t' that cannot start any token",
    "two_documents.yaml:7: not valid YAML: expected a single document in the stream, but found another document",
    "type_flag.yaml:9: routing.rules[0].when.stream: expected true or false",
    "type_list.yaml:7: failover.on: expected a list",
    "type_mapping.yaml:7: telemetry: expected a mapping",
    "type_number.yaml:7: routing.smart.threshold: expected a number",
    "type_text.yaml:7: listen: expected text",
    "unknown_cause.yaml:7: failover.on[1]: allowed: connect, reset, 429, 5xx, overloaded, "
    "first_event_timeout, context_too_long, credentials, not_found",
    f"unknown_key.yaml:7: verbosity: unknown key; allowed: {TOP}",
    "unknown_tag.yaml:7: redis: expected text",
    "workers_text.yaml:7: workers: expected a whole number from 1 to 64, or auto",
    "workers_zero.yaml:7: workers: expected a whole number from 1 to 64, or auto",
]


@pytest.mark.parametrize("line", EXPECTED, ids=lambda line: line.partition(".yaml")[0])
def test_message(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad file gives exactly one line that names the file, the line, the path and what is allowed."""
    monkeypatch.chdir(FILES)
    with pytest.raises(ConfigError) as caught:
        load(Path(line.partition(":")[0]), {})
    assert caught.value.lines == [line]


def test_every_file_has_its_message() -> None:
    """No bad file lies about without a line here, and none is listed twice."""
    listed = [line.partition(".yaml")[0] for line in EXPECTED]
    assert sorted(listed) == sorted(p.stem for p in FILES.glob("*.yaml") if p.stem != "good")


def test_a_message_never_quotes_a_secret() -> None:
    """A duplicate api_key is told without either value."""
    with pytest.raises(ConfigError) as caught:
        load(FILES / "duplicate_secret.yaml", {})
    assert "sk-" not in str(caught.value)


def test_good_file_loads() -> None:
    """A complete file loads; durations are seconds, sizes bytes, a file: secret is its stripped content."""
    config = load(FILES / "good.yaml", {})
    assert config.failover.first_event_timeout == 0.25
    assert config.failover.silence_timeout == 120.0
    assert config.max_body == 8 << 20
    assert config.backends["claude"].api_key == "sk-from-a-file"
    assert config.backends["claude"].base_url == "https://api.anthropic.com"
    assert config.backends["qwen"].models["q"].usd_per_million_input == 0.15
    assert config.auth.keys[0].routes == ["local"]


def test_api_key_is_not_in_the_text_form() -> None:
    """A backend's text form, which may reach a log, does not hold its key."""
    assert "sk-from-a-file" not in repr(load(FILES / "good.yaml", {}))


@pytest.mark.parametrize(("env", "listen"), [
    ({}, "127.0.0.1:10000"), ({"LISTEN": ""}, "127.0.0.1:10000"), ({"LISTEN": "127.0.0.1:8080"}, "127.0.0.1:8080"),
])
def test_variable_with_default(env: dict[str, str], listen: str) -> None:
    """${VAR:-default} takes the variable, and the default when it is unset or empty."""
    assert load(FILES / "good.yaml", env).listen == listen


def test_all_findings_at_once() -> None:
    """Several mistakes are told together, one line each."""
    with pytest.raises(ConfigError) as caught:
        parse(MINIMAL + "workers: 0\nredis: nowhere\n", "t", Path())
    assert [line.split(": ")[1] for line in caught.value.lines] == ["workers", "redis"]


def test_frozen() -> None:
    """A loaded configuration cannot be changed: it is swapped whole."""
    config = parse(MINIMAL, "t", Path())
    with pytest.raises(pydantic.ValidationError):
        config.listen = "127.0.0.1:1"
    with pytest.raises(pydantic.ValidationError):
        config.routing.smart.threshold = 0.1


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "[::1]:1", "localhost:1"])
def test_loopback_needs_no_keys(listen: str) -> None:
    """auth none is allowed on every spelling of loopback."""
    assert parse(MINIMAL + f'listen: "{listen}"\n', "t", Path()).auth.mode == "none"


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("2KB", 2000), ("2KiB", 2048), ("1GiB", 1 << 30)])
def test_sizes(text: str, size: int) -> None:
    """Sizes are whole bytes with decimal or binary units."""
    assert parse(MINIMAL + f"max_body: {text}\n", "t", Path()).max_body == size


def test_unreadable_file(tmp_path: Path) -> None:
    """A missing file and a file that is not UTF-8 are told as such."""
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read: No such file or directory"):
        load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"listen: \xff\n")
    with pytest.raises(ConfigError, match=r"bad.yaml: is not UTF-8 text"):
        load(tmp_path / "bad.yaml")


def test_secret_file_that_is_not_text(tmp_path: Path) -> None:
    """A secret file of arbitrary bytes is a finding, not a crash."""
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"t:2: backends.gpt.api_key: secret file key is not UTF-8 text"):
        parse(MINIMAL.replace("KEY", "file:key"), "t", tmp_path)
