from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Tokens(_message.Message):
    __slots__ = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "reasoning")
    INPUT_FIELD_NUMBER: _ClassVar[int]
    CACHE_READ_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_5M_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_1H_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    REASONING_FIELD_NUMBER: _ClassVar[int]
    input: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    output: int
    reasoning: int
    def __init__(self, input: _Optional[int] = ..., cache_read: _Optional[int] = ..., cache_write_5m: _Optional[int] = ..., cache_write_1h: _Optional[int] = ..., output: _Optional[int] = ..., reasoning: _Optional[int] = ...) -> None: ...

class Admission(_message.Message):
    __slots__ = ("request_id", "org", "team", "project", "user", "key", "route", "reason", "model_asked", "client_schema", "stream", "admitted_unix_ms", "facts")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    TEAM_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MODEL_ASKED_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ADMITTED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    org: str
    team: str
    project: str
    user: str
    key: str
    route: str
    reason: str
    model_asked: str
    client_schema: str
    stream: bool
    admitted_unix_ms: int
    facts: Facts
    def __init__(self, request_id: _Optional[str] = ..., org: _Optional[str] = ..., team: _Optional[str] = ..., project: _Optional[str] = ..., user: _Optional[str] = ..., key: _Optional[str] = ..., route: _Optional[str] = ..., reason: _Optional[str] = ..., model_asked: _Optional[str] = ..., client_schema: _Optional[str] = ..., stream: _Optional[bool] = ..., admitted_unix_ms: _Optional[int] = ..., facts: _Optional[_Union[Facts, _Mapping]] = ...) -> None: ...

class Facts(_message.Message):
    __slots__ = ("task", "cell", "score_ppm", "p_local_ppm", "p_cloud_ppm", "input_tokens", "max_tokens", "turns", "tools", "tool_rounds", "tool_loop", "images", "needs", "thinking", "agent", "phase", "pace", "path", "kind", "fills", "rule", "aim", "shadow_of", "structured", "effort", "budget_left_ppm", "warm_tokens", "session")
    TASK_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    SCORE_PPM_FIELD_NUMBER: _ClassVar[int]
    P_LOCAL_PPM_FIELD_NUMBER: _ClassVar[int]
    P_CLOUD_PPM_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    TOOL_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    TOOL_LOOP_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    NEEDS_FIELD_NUMBER: _ClassVar[int]
    THINKING_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PACE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FILLS_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    AIM_FIELD_NUMBER: _ClassVar[int]
    SHADOW_OF_FIELD_NUMBER: _ClassVar[int]
    STRUCTURED_FIELD_NUMBER: _ClassVar[int]
    EFFORT_FIELD_NUMBER: _ClassVar[int]
    BUDGET_LEFT_PPM_FIELD_NUMBER: _ClassVar[int]
    WARM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    task: str
    cell: str
    score_ppm: int
    p_local_ppm: int
    p_cloud_ppm: int
    input_tokens: int
    max_tokens: int
    turns: int
    tools: int
    tool_rounds: int
    tool_loop: bool
    images: int
    needs: _containers.RepeatedScalarFieldContainer[str]
    thinking: bool
    agent: str
    phase: str
    pace: str
    path: str
    kind: str
    fills: bool
    rule: int
    aim: str
    shadow_of: str
    structured: bool
    effort: str
    budget_left_ppm: int
    warm_tokens: int
    session: str
    def __init__(self, task: _Optional[str] = ..., cell: _Optional[str] = ..., score_ppm: _Optional[int] = ..., p_local_ppm: _Optional[int] = ..., p_cloud_ppm: _Optional[int] = ..., input_tokens: _Optional[int] = ..., max_tokens: _Optional[int] = ..., turns: _Optional[int] = ..., tools: _Optional[int] = ..., tool_rounds: _Optional[int] = ..., tool_loop: _Optional[bool] = ..., images: _Optional[int] = ..., needs: _Optional[_Iterable[str]] = ..., thinking: _Optional[bool] = ..., agent: _Optional[str] = ..., phase: _Optional[str] = ..., pace: _Optional[str] = ..., path: _Optional[str] = ..., kind: _Optional[str] = ..., fills: _Optional[bool] = ..., rule: _Optional[int] = ..., aim: _Optional[str] = ..., shadow_of: _Optional[str] = ..., structured: _Optional[bool] = ..., effort: _Optional[str] = ..., budget_left_ppm: _Optional[int] = ..., warm_tokens: _Optional[int] = ..., session: _Optional[str] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("number", "backend", "model_used", "outcome", "status", "error_type", "tokens", "cost_nano_usd", "duration_ms", "time_to_first_token_ms", "error_body", "model_reported", "finish_reason", "price_version", "counterfactual_nano_usd", "service_tier", "region", "web_searches")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNSPECIFIED: _ClassVar[Attempt.Outcome]
        EXACT: _ClassVar[Attempt.Outcome]
        ESTIMATED: _ClassVar[Attempt.Outcome]
        FAILED: _ClassVar[Attempt.Outcome]
        EXPIRED: _ClassVar[Attempt.Outcome]
    UNSPECIFIED: Attempt.Outcome
    EXACT: Attempt.Outcome
    ESTIMATED: Attempt.Outcome
    FAILED: Attempt.Outcome
    EXPIRED: Attempt.Outcome
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    MODEL_USED_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    ERROR_BODY_FIELD_NUMBER: _ClassVar[int]
    MODEL_REPORTED_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    PRICE_VERSION_FIELD_NUMBER: _ClassVar[int]
    COUNTERFACTUAL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TIER_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    WEB_SEARCHES_FIELD_NUMBER: _ClassVar[int]
    number: int
    backend: str
    model_used: str
    outcome: Attempt.Outcome
    status: int
    error_type: str
    tokens: Tokens
    cost_nano_usd: int
    duration_ms: int
    time_to_first_token_ms: int
    error_body: str
    model_reported: str
    finish_reason: str
    price_version: str
    counterfactual_nano_usd: int
    service_tier: str
    region: str
    web_searches: int
    def __init__(self, number: _Optional[int] = ..., backend: _Optional[str] = ..., model_used: _Optional[str] = ..., outcome: _Optional[_Union[Attempt.Outcome, str]] = ..., status: _Optional[int] = ..., error_type: _Optional[str] = ..., tokens: _Optional[_Union[Tokens, _Mapping]] = ..., cost_nano_usd: _Optional[int] = ..., duration_ms: _Optional[int] = ..., time_to_first_token_ms: _Optional[int] = ..., error_body: _Optional[str] = ..., model_reported: _Optional[str] = ..., finish_reason: _Optional[str] = ..., price_version: _Optional[str] = ..., counterfactual_nano_usd: _Optional[int] = ..., service_tier: _Optional[str] = ..., region: _Optional[str] = ..., web_searches: _Optional[int] = ...) -> None: ...

class UsageRecord(_message.Message):
    __slots__ = ("state", "admission", "attempts", "delta_nano_usd", "delta_tokens", "unfunded_nano_usd", "budgets", "option", "max_tokens")
    STATE_FIELD_NUMBER: _ClassVar[int]
    ADMISSION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    DELTA_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    DELTA_TOKENS_FIELD_NUMBER: _ClassVar[int]
    UNFUNDED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    OPTION_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    state: str
    admission: Admission
    attempts: _containers.RepeatedCompositeFieldContainer[Attempt]
    delta_nano_usd: int
    delta_tokens: int
    unfunded_nano_usd: int
    budgets: _containers.RepeatedScalarFieldContainer[str]
    option: int
    max_tokens: int
    def __init__(self, state: _Optional[str] = ..., admission: _Optional[_Union[Admission, _Mapping]] = ..., attempts: _Optional[_Iterable[_Union[Attempt, _Mapping]]] = ..., delta_nano_usd: _Optional[int] = ..., delta_tokens: _Optional[int] = ..., unfunded_nano_usd: _Optional[int] = ..., budgets: _Optional[_Iterable[str]] = ..., option: _Optional[int] = ..., max_tokens: _Optional[int] = ...) -> None: ...
