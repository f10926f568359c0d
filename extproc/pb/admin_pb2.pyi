from google.protobuf import any_pb2 as _any_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListUsageRequest(_message.Message):
    __slots__ = ("org", "by", "since", "until", "only")
    ORG_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    ONLY_FIELD_NUMBER: _ClassVar[int]
    org: str
    by: _containers.RepeatedScalarFieldContainer[str]
    since: str
    until: str
    only: _containers.RepeatedCompositeFieldContainer[Filter]
    def __init__(self, org: _Optional[str] = ..., by: _Optional[_Iterable[str]] = ..., since: _Optional[str] = ..., until: _Optional[str] = ..., only: _Optional[_Iterable[_Union[Filter, _Mapping]]] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("dimension", "value")
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    dimension: str
    value: str
    def __init__(self, dimension: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class UsageRow(_message.Message):
    __slots__ = ("dimensions", "requests", "input_tokens", "output_tokens", "unpriced_attempts", "cost_nano_usd")
    class DimensionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    UNPRICED_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    dimensions: _containers.ScalarMap[str, str]
    requests: int
    input_tokens: int
    output_tokens: int
    unpriced_attempts: int
    cost_nano_usd: int
    def __init__(self, dimensions: _Optional[_Mapping[str, str]] = ..., requests: _Optional[int] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., unpriced_attempts: _Optional[int] = ..., cost_nano_usd: _Optional[int] = ...) -> None: ...

class StreamRecordsRequest(_message.Message):
    __slots__ = ("org", "from_id", "follow")
    ORG_FIELD_NUMBER: _ClassVar[int]
    FROM_ID_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    org: str
    from_id: str
    follow: bool
    def __init__(self, org: _Optional[str] = ..., from_id: _Optional[str] = ..., follow: _Optional[bool] = ...) -> None: ...

class Record(_message.Message):
    __slots__ = ("id", "recorded_unix_ms", "usage_record")
    ID_FIELD_NUMBER: _ClassVar[int]
    RECORDED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    USAGE_RECORD_FIELD_NUMBER: _ClassVar[int]
    id: str
    recorded_unix_ms: int
    usage_record: _any_pb2.Any
    def __init__(self, id: _Optional[str] = ..., recorded_unix_ms: _Optional[int] = ..., usage_record: _Optional[_Union[_any_pb2.Any, _Mapping]] = ...) -> None: ...

class ListBudgetsRequest(_message.Message):
    __slots__ = ("org", "all")
    ORG_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    org: str
    all: bool
    def __init__(self, org: _Optional[str] = ..., all: _Optional[bool] = ...) -> None: ...

class ListBudgetsResponse(_message.Message):
    __slots__ = ("time_unix_ms", "budgets")
    TIME_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    time_unix_ms: int
    budgets: _containers.RepeatedCompositeFieldContainer[Budget]
    def __init__(self, time_unix_ms: _Optional[int] = ..., budgets: _Optional[_Iterable[_Union[Budget, _Mapping]]] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("whom", "name", "per", "unit", "spent", "reserved", "debt", "limit", "free", "used_permille", "ends_unix_ms", "window")
    WHOM_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PER_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    RESERVED_FIELD_NUMBER: _ClassVar[int]
    DEBT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    USED_PERMILLE_FIELD_NUMBER: _ClassVar[int]
    ENDS_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    whom: str
    name: str
    per: str
    unit: str
    spent: int
    reserved: int
    debt: int
    limit: int
    free: int
    used_permille: int
    ends_unix_ms: int
    window: str
    def __init__(self, whom: _Optional[str] = ..., name: _Optional[str] = ..., per: _Optional[str] = ..., unit: _Optional[str] = ..., spent: _Optional[int] = ..., reserved: _Optional[int] = ..., debt: _Optional[int] = ..., limit: _Optional[int] = ..., free: _Optional[int] = ..., used_permille: _Optional[int] = ..., ends_unix_ms: _Optional[int] = ..., window: _Optional[str] = ...) -> None: ...

class GetReportRequest(_message.Message):
    __slots__ = ("org", "since", "until", "baseline", "top")
    ORG_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    org: str
    since: str
    until: str
    baseline: str
    top: int
    def __init__(self, org: _Optional[str] = ..., since: _Optional[str] = ..., until: _Optional[str] = ..., baseline: _Optional[str] = ..., top: _Optional[int] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("org", "since", "until", "baseline", "requests", "tokens", "cost_nano_usd", "unfunded_nano_usd", "failed_over", "failed_attempts_nano_usd", "states", "spend", "savings", "local", "cloud", "could_be_local", "failovers", "dearest")
    class StatesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class CouldBeLocalEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Share
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Share, _Mapping]] = ...) -> None: ...
    ORG_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    UNFUNDED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    FAILED_OVER_FIELD_NUMBER: _ClassVar[int]
    FAILED_ATTEMPTS_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    SPEND_FIELD_NUMBER: _ClassVar[int]
    SAVINGS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    CLOUD_FIELD_NUMBER: _ClassVar[int]
    COULD_BE_LOCAL_FIELD_NUMBER: _ClassVar[int]
    FAILOVERS_FIELD_NUMBER: _ClassVar[int]
    DEAREST_FIELD_NUMBER: _ClassVar[int]
    org: str
    since: str
    until: str
    baseline: str
    requests: int
    tokens: int
    cost_nano_usd: int
    unfunded_nano_usd: int
    failed_over: int
    failed_attempts_nano_usd: int
    states: _containers.ScalarMap[str, int]
    spend: _containers.RepeatedCompositeFieldContainer[Spend]
    savings: Savings
    local: Share
    cloud: Share
    could_be_local: _containers.MessageMap[str, Share]
    failovers: _containers.RepeatedCompositeFieldContainer[Failover]
    dearest: _containers.RepeatedCompositeFieldContainer[Dear]
    def __init__(self, org: _Optional[str] = ..., since: _Optional[str] = ..., until: _Optional[str] = ..., baseline: _Optional[str] = ..., requests: _Optional[int] = ..., tokens: _Optional[int] = ..., cost_nano_usd: _Optional[int] = ..., unfunded_nano_usd: _Optional[int] = ..., failed_over: _Optional[int] = ..., failed_attempts_nano_usd: _Optional[int] = ..., states: _Optional[_Mapping[str, int]] = ..., spend: _Optional[_Iterable[_Union[Spend, _Mapping]]] = ..., savings: _Optional[_Union[Savings, _Mapping]] = ..., local: _Optional[_Union[Share, _Mapping]] = ..., cloud: _Optional[_Union[Share, _Mapping]] = ..., could_be_local: _Optional[_Mapping[str, Share]] = ..., failovers: _Optional[_Iterable[_Union[Failover, _Mapping]]] = ..., dearest: _Optional[_Iterable[_Union[Dear, _Mapping]]] = ...) -> None: ...

class Spend(_message.Message):
    __slots__ = ("model", "backend", "attempts", "failed", "input_tokens", "cached_tokens", "output_tokens", "unpriced", "cost_nano_usd")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    UNPRICED_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    model: str
    backend: str
    attempts: int
    failed: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    unpriced: int
    cost_nano_usd: int
    def __init__(self, model: _Optional[str] = ..., backend: _Optional[str] = ..., attempts: _Optional[int] = ..., failed: _Optional[int] = ..., input_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., unpriced: _Optional[int] = ..., cost_nano_usd: _Optional[int] = ...) -> None: ...

class Savings(_message.Message):
    __slots__ = ("compared", "left_out", "actual_nano_usd", "baseline_nano_usd")
    COMPARED_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    BASELINE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    compared: int
    left_out: int
    actual_nano_usd: int
    baseline_nano_usd: int
    def __init__(self, compared: _Optional[int] = ..., left_out: _Optional[int] = ..., actual_nano_usd: _Optional[int] = ..., baseline_nano_usd: _Optional[int] = ...) -> None: ...

class Share(_message.Message):
    __slots__ = ("requests", "input_tokens", "output_tokens", "cost_nano_usd", "baseline_nano_usd")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    BASELINE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    requests: int
    input_tokens: int
    output_tokens: int
    cost_nano_usd: int
    baseline_nano_usd: int
    def __init__(self, requests: _Optional[int] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cost_nano_usd: _Optional[int] = ..., baseline_nano_usd: _Optional[int] = ...) -> None: ...

class Failover(_message.Message):
    __slots__ = ("from_backend", "to_backend", "cause", "times")
    FROM_BACKEND_FIELD_NUMBER: _ClassVar[int]
    TO_BACKEND_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    from_backend: str
    to_backend: str
    cause: str
    times: int
    def __init__(self, from_backend: _Optional[str] = ..., to_backend: _Optional[str] = ..., cause: _Optional[str] = ..., times: _Optional[int] = ...) -> None: ...

class Dear(_message.Message):
    __slots__ = ("request_id", "admitted_unix_ms", "team", "key", "model", "backend", "input_tokens", "output_tokens", "cost_nano_usd", "state")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ADMITTED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    TEAM_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    admitted_unix_ms: int
    team: str
    key: str
    model: str
    backend: str
    input_tokens: int
    output_tokens: int
    cost_nano_usd: int
    state: str
    def __init__(self, request_id: _Optional[str] = ..., admitted_unix_ms: _Optional[int] = ..., team: _Optional[str] = ..., key: _Optional[str] = ..., model: _Optional[str] = ..., backend: _Optional[str] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cost_nano_usd: _Optional[int] = ..., state: _Optional[str] = ...) -> None: ...
