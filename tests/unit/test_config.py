"""The gateway.yaml model: one bad file per message, and what a good file means."""

from __future__ import annotations

import json
from pathlib import Path

import pydantic
import pytest

from extproc.config import ConfigError, load, parse
from extproc.ledger.keys import KeyRefused, clean_org

FILES = Path(__file__).parent.parent / "config"
TOP = (
    "admin, admin_grpc, auth, backends, budgets, chains, envoy_admin, explain, failover, learning, limits, listen, max_body, models, money, redis, "
    "routing, telemetry, workers"
)
MINIMAL = """
backends: {gpt: {schema: openai, base_url: "http://127.0.0.1:1/v1", location: cloud, api_key: KEY}}
chains: {cloud: [gpt/m], local: [gpt/m]}
"""
WHEN = (
    "agent, all, any, budget_left, down, effort, endpoint, fills, header, images, in_tool_loop, key, max_tokens, model, "
    "needs, not, org, pace, path, phase, project, session, stream, structured, task, team, thinking, tokens, "
    "tokens_above, tool_rounds, tools, turns, user, warm_tokens"
)
COMPARED = 'expected a number or a comparison, such as 5, "> 20000", "<= 3" or 1000..20000'
ROUTES = "allowed: cloud, local, smart, or BACKEND/MODEL"
SHARE = "expected a share such as 20% or 0.2, from 0% to 100%"
EXPECTED = [
    "alias_in_itself.yaml:2: backends.gpt: expected a mapping",
    "alias_in_list.yaml:7: redis: expected text",
    "bad_address.yaml:7: admin: expected HOST:PORT, such as 127.0.0.1:10000",
    "bad_auth_mode.yaml:7: auth.mode: allowed: none, keys, jwt",
    "bad_backend_name.yaml:3: backends.my qwen: expected a name of up to 64 letters, digits, dots, "
    "dashes and underscores",
    "bad_duration.yaml:7: failover.silence_timeout: expected a duration such as 250ms, 20s, 5m",
    "bad_location.yaml:3: backends.qwen.location: allowed: cloud, local",
    "bad_org.yaml:7: auth.org: expected a name of up to 64 printable characters, without braces, colons and blanks around it, "
    "and not keys or *",
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
    "budget_holder_blank.yaml:7: budgets[0].for.team: expected printable characters, without blanks around them",
    'budget_holder_empty.yaml:7: budgets[0].for.team: expected a name, or "*"',
    "budget_spelled_twice.yaml:9: budgets[1]: another budget in usd per month of the same stands above",
    "limit_unknown_backend.yaml:7: limits[0].for.backend: unknown backend gtp; allowed: gpt, qwen, *",
    "budget_twice.yaml:13: budgets[5]: another budget in usd per month of the same stands above",
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
    "limit_twice.yaml:13: limits[5]: another limit of requests of the same stands above",
    "missing_field.yaml:2: backends.gpt.schema: is required, unless a dialect is given",
    "missing_secret_file.yaml:2: backends.gpt.api_key: secret file nowhere.txt cannot be read: No such "
    "file or directory",
    "missing_variable.yaml:2: backends.gpt.api_key: environment variable EXTPROC_NOT_SET is not set; "
    "export it or write ${EXTPROC_NOT_SET:-default}",
    "misspelt_inner_key.yaml:7: failover.first_event_timeuot: unknown key; did you mean "
    "first_event_timeout? allowed: answer_timeout, connect_timeout, first_event_timeout, on, passive_health, ping_interval, silence_timeout",
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
    "rule_any_empty.yaml:12: routing.rules[1].when.any: needs at least 1 entry",
    f"rule_bad_comparison.yaml:13: routing.rules[1].when.tokens: {COMPARED}",
    f"rule_bad_inner_comparison.yaml:15: routing.rules[1].when.any[1].not.budget_left: {COMPARED}",
    "rule_bad_negation.yaml:12: routing.rules[1].when.not: expected a mapping",
    "rule_bad_texts.yaml:12: routing.rules[1].when.team: expected a text, or a list of texts",
    "rule_canary_percent.yaml:15: routing.rules[1].canary.percent: expected a number of per cent from 0 to 100, such as 5",
    f"rule_canary_unknown.yaml:15: routing.rules[1].canary.route: unknown chain new; {ROUTES}",
    "rule_down_unknown.yaml:14: routing.rules[1].when.all[1].down: unknown backend claude; allowed: gpt, qwen",
    "rule_never_holds.yaml:12: routing.rules[1].when.turns: < 0 holds for no number here",
    "rule_range_backwards.yaml:12: routing.rules[1].when.tokens: 20000..1000: the first number must not be the larger one",
    f"rule_reads_prompt.yaml:12: routing.rules[1].when.prompt: unknown key; did you mean project? allowed: {WHEN}",
    "rule_sample_alone.yaml:10: routing.rules[1]: sample is for shadow, and there is none",
    f"rule_sample_bad.yaml:14: routing.rules[1].sample: {SHARE}",
    "rule_shadow_unknown.yaml:13: routing.rules[1].shadow: unknown chain qwen/q; allowed: cloud, local",
    "rule_split_negative.yaml:15: routing.rules[1].split.cloud: expected a number of at least 0",
    "rule_split_nothing.yaml:13: routing.rules[1].split: needs at least one weight above 0",
    f"rule_split_unknown.yaml:15: routing.rules[1].split.clod: unknown chain clod; {ROUTES}",
    "rule_two_targets.yaml:10: routing.rules[1]: route and canary exclude each other; give one of them",
    "rule_unknown_agent.yaml:12: routing.rules[1].when.not.agent: unknown value claud-*; allowed: claude-code, codex, aider, "
    "opencode, qwen-code, continue, cursor, cline, roo-code, sdk, curl, other",
    "rule_unknown_phase.yaml:12: routing.rules[1].when.phase: unknown value titel; allowed: main, chat, plan, title, topic, "
    "summary, subagent, review, probe, helper, edit, edit-whole, edit-diff, edit-udiff, edit-patch, apply, commit, complete",
    f"rule_unknown_signal.yaml:13: routing.rules[1].when.tokns: unknown key; did you mean tokens? allowed: {WHEN}",
    "rule_without_target.yaml:10: routing.rules[1]: needs one of route, split, canary, shadow",
    "rule_unknown_route.yaml:10: routing.rules[0].route: unknown chain lokal; allowed: cloud, local, "
    "smart, or BACKEND/MODEL",
    "rule_without_reason.yaml:9: routing.rules[0].reason: is required",
    "smart_aim_of_two_amounts.yaml:7: routing.smart.aim: expected quality, balanced, savings, {cloud_share: 20%} or "
    "{usd_per_day: 10}",
    "smart_bad_share.yaml:7: routing.smart.aim.cloud_share: expected a share such as 20% or 0.2, from 0% to 100%",
    "smart_negative_dollars.yaml:7: routing.smart.aim.usd_per_day: expected a number of at least 0",
    "smart_prior_not_a_rate.yaml:7: routing.smart.priors.qwen.debug: expected a share such as 20% or 0.2, from 0% to 100%",
    "smart_prior_unknown_backend.yaml:7: routing.smart.priors.qwen/r: unknown backend qwen/r; allowed: gpt, qwen, or "
    "BACKEND/MODEL of a chain",
    "smart_prior_unknown_task.yaml:7: routing.smart.priors.qwen.debugging: unknown key; did you mean debug? allowed: "
    "chat, complete, debug, design, edit, explain, generate, knowledge, math, review",
    "smart_session_too_short.yaml:7: routing.smart.sessions.keep: expected a duration from 1m to 168h",
    "smart_two_aims.yaml:7: routing.smart.threshold: exclude each other: aim, threshold; give one",
    "smart_unknown_aim.yaml:7: routing.smart.aim: expected quality, balanced, savings, {cloud_share: 20%} or "
    "{usd_per_day: 10}",
    "smart_unknown_chain.yaml:9: routing.smart.complex: unknown chain huge; allowed: cloud, local",
    "smart_value_text.yaml:7: routing.smart.value_usd: expected a number",
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


@pytest.mark.parametrize("org", [
    "acme", "Ärzte & Söhne", "e\u0301", "a" * 64, "keys ", " a", "keys", "*", "", "a" * 65, "a{b", "a}", "a:b", "a\nb", "a b",
])
def test_orgs_are_those_of_keys(org: str) -> None:
    """auth.org has the rule, and the one spelling, that orgs of keys in the store have: it names the same books there."""
    try:
        expected = clean_org(org)
    except KeyRefused:
        expected = None
    text = MINIMAL + f"auth: {{org: {json.dumps(org)}}}\n"
    if expected is None:
        with pytest.raises(ConfigError, match=r"auth\.org: expected a name"):
            parse(text, "t", Path())
    else:
        assert parse(text, "t", Path()).auth.org == expected


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


def test_one_chain_needs_no_telling() -> None:
    """Where there is one chain, whatever its name, the smart flow goes there; what is given stays."""
    text = MINIMAL.partition("chains:")[0] + "chains: {main: [gpt/x]}\n"
    smart = parse(text, "t", Path()).routing.smart
    assert set(smart.targets().values()) == {"main"}
    with pytest.raises(ConfigError) as caught:
        parse(text + "routing: {smart: {complex: cloud}}\n", "t", Path())
    assert [line.split(": ", 1)[1] for line in caught.value.lines] == [
        "routing.smart.complex: unknown chain cloud; allowed: main"]


def test_chains_of_other_names_are_told_what_the_smart_flow_wants() -> None:
    """With several chains, none named as the smart flow assumes, the message says that it was an assumption."""
    text = MINIMAL.partition("chains:")[0] + "chains: {one: [gpt/x], two: [gpt/y]}\n"
    with pytest.raises(ConfigError) as caught:
        parse(text + "routing: {smart: {latency_critical: one, cost_sensitive: two, simple: two}}\n", "t", Path())
    assert [line.split(": ", 1)[1] for line in caught.value.lines] == [
        "routing.smart.complex: is cloud unless it is given, and no chain has that name; allowed: one, two"]
