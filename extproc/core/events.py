"""The language between the stages and the world: events in, actions out. No I/O, no clock, no protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from extproc.core.admission import Plan, Shared
from extproc.core.bound import Bound
from extproc.core.conversation import Conversation
from extproc.core.cut import Shown
from extproc.core.errors import Problem
from extproc.core.identity import Caller
from extproc.core.routing.sessions import Memory
from extproc.core.usage import PLAIN, Terms, Tokens
from extproc.money.amounts import Ask, Grant, Need

if TYPE_CHECKING:
    from extproc.core.feedback import Feedback
    from extproc.core.routing.flow import Decision
    from extproc.core.routing.outcomes import Learnable

# ---------------------------------------------------------------------------------------- events


class RequestHeaders(msgspec.Struct, frozen=True):
    """The client's (request stage) or the attempt's request headers, lower-case names, pseudo headers included.

    `decision` and `backend` are what the attempt stage is told: the decision of the request stage (dynamic
    metadata) and the target of the chosen host (endpoint metadata); `attempt` counts from 1.
    """

    headers: Mapping[str, str]
    end_of_stream: bool
    decision: str = ""
    target: str = ""
    attempt: int = 0


class RequestBody(msgspec.Struct, frozen=True):
    """The whole request body (Envoy buffers it)."""

    body: bytes


class ResponseHeaders(msgspec.Struct, frozen=True):
    """The response headers."""

    headers: Mapping[str, str]
    end_of_stream: bool


class ResponseBody(msgspec.Struct, frozen=True):
    """A chunk of the response, cut anywhere."""

    chunk: bytes
    end_of_stream: bool


class ResponseTrailers(msgspec.Struct, frozen=True):
    """The upstream sent trailers: its body is over."""


class Reserved(msgspec.Struct, frozen=True):
    """The ledger answered `Reserve`; `unavailable` when it could not be asked, DENIED when that is a refusal, because
    what may be dispatched without it is used up.

    With a plan: `grant` and the `ask` it answers; `skipped` backends of the granted chain are over a limit of theirs.
    """

    code: Literal["OK", "GONE", "EMPTY", "LOG_FULL", "LIMIT", "BUDGET", "DENIED", "unavailable"]
    grant: Grant | None = None
    ask: Ask | None = None
    skipped: int = 0
    taken: Shared | None = None
    """The limits of the first backend that the request takes part of."""


class Begun(msgspec.Struct, frozen=True):
    """The ledger answered `Begin`. BUDGET: what the attempt may cost is not funded. DENIED: the store was not reached,
    and without it nothing that costs may be sent."""

    code: Literal["OK", "GONE", "BUDGET", "DENIED", "unavailable"]


class Finished(msgspec.Struct, frozen=True):
    """The ledger answered `Finish`: the last failed attempt's problem, if one was recorded."""

    problem: Problem | None
    attempts: int


class Identified(msgspec.Struct, frozen=True):
    """The answer to `Identify`: who holds one of the keys, or nobody; `unavailable` when the store was not reached."""

    caller: Caller | None
    unavailable: bool = False


class Recalled(msgspec.Struct, frozen=True):
    """The answer to `Recall`: what is remembered of the session; None: nothing, or the store was not reached."""

    memory: Memory | None


class Rated(msgspec.Struct, frozen=True):
    """The answer to `Rate`: whether the caller has such a request; `unavailable` when the store was not reached."""

    known: bool
    unavailable: bool = False


class Silence(msgspec.Struct, frozen=True):
    """Nothing came from the provider for longer than the silence limit."""


class Idle(msgspec.Struct, frozen=True):
    """The client's stream has had no byte for the ping interval."""


class Counted(msgspec.Struct, frozen=True):
    """The answer to `Count`, in tokens."""

    tokens: int


class Closed(msgspec.Struct, frozen=True):
    """The gRPC stream is over, for whatever reason. Comes exactly once."""


Event = (RequestHeaders | RequestBody | ResponseHeaders | ResponseBody | ResponseTrailers | Reserved | Begun
         | Finished | Silence | Idle | Counted | Identified | Recalled | Rated | Closed)

# ---------------------------------------------------------------------------------------- actions


def header_text(text: str) -> str:
    """Text fit for a header value: printable ASCII, bounded."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:300])


def whole_number(text: str) -> int | None:
    """The value of a header that should be a plain number; None for anything else, however long."""
    return int(text) if len(text) <= 18 and text.isascii() and text.isdigit() else None


Phase = Literal["request_headers", "request_body", "response_headers", "response_trailers"]


class Proceed(msgspec.Struct, frozen=True):
    """Let a phase go on, with changes. Headers are overwritten; `decision` becomes dynamic metadata."""

    phase: Phase
    set: Mapping[str, str] = {}
    remove: tuple[str, ...] = ()
    body: bytes | None = None
    clear_route: bool = False
    decision: str | None = None


class Emit(msgspec.Struct, frozen=True):
    """Response bytes for the client (attempt stage)."""

    chunk: bytes
    end_of_stream: bool


class Reply(msgspec.Struct, frozen=True):
    """Answer the client from here; nothing else happens to the request."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Admission(msgspec.Struct, frozen=True):
    """Who asks for what: fixed when the request is admitted."""

    org: str
    team: str
    project: str
    user: str
    key: str
    route: str
    reason: str
    model: str
    schema: str
    stream: bool


class Reserve(msgspec.Struct, frozen=True):
    """Open the reservation; `Reserved` follows. `plan`: what it asks of budgets and rate limits."""

    admission: Admission
    plan: Plan | None = None
    admitted: int = 0
    """When, in ms since the epoch: it decides the day of the rollup."""
    decision: Decision | None = None
    """Why the request goes where it goes: explained for a while, and its facts in the ledger."""
    counts: Mapping[str, int] = {}
    """To be added to what the org's day has seen (`Pace`)."""
    shadow_of: str = ""
    """The id of the request that this one is a copy of."""


class Begin(msgspec.Struct, frozen=True):
    """Announce an attempt before its dispatch; `Begun` follows where the request has a reservation."""

    attempt: int
    backend: str
    model: str
    need: Need | None = None
    """The most that the attempt can cost, where budgets apply."""


Outcome = Literal["exact", "estimated", "failed"]


class End(msgspec.Struct, frozen=True):
    """Settle the attempt. `cost` None: the price is unknown. `problem`: what the client was or would be told."""

    attempt: int
    backend: str
    model: str
    outcome: Outcome
    final: bool
    tokens: Tokens
    cost: int | None
    status: int
    duration_ms: int
    first_event_ms: int | None = None
    reported_model: str = ""
    finish_reason: str = ""
    problem: Problem | None = None
    price_version: str = ""
    terms: Terms = PLAIN
    flaws: tuple[str, ...] = ()
    """What is wrong with the answer as far as can be seen (`routing.outcomes.Watch`)."""
    counterfactual: int | None = None
    """What the same tokens would have cost at the baseline model; None: unknown."""
    begun: bool = True
    """False: the store did not answer `Begin`, so it may or may not know of this attempt."""
    closed: bool = False
    """Whether the provider ended its answer before it was complete. A reset in the middle of a stream is not seen here:
    to us Envoy shows it as it shows a client that leaves. Its access log tells (`server.breaks`)."""
    retry_after_ms: int | None = None
    """How long the provider asks to be left alone (`core.retry_after`); None: it did not say."""


class Finish(msgspec.Struct, frozen=True):
    """No further attempt can come. `wait`: the stage needs `Finished` before it can answer."""

    wait: bool
    status: int
    org: str = "default"
    attempt: int = 0
    """The attempt whose answer goes to the client; 0: none."""
    backend: str = ""
    """The backend (BACKEND/MODEL) that made it."""
    taken: Shared | None = None
    """What the request took of the limits that backends share: given back where no attempt was made."""


class Warn(msgspec.Struct, frozen=True):
    """Something an operator should know; never holds a prompt or a key."""

    message: str


class Identify(msgspec.Struct, frozen=True):
    """Look keys up in the store by the SHA-256 of their secrets; `Identified` follows."""

    digests: tuple[bytes, ...]


class Count(msgspec.Struct, frozen=True):
    """Count the tokens of a conversation as this model would, away from the event loop; `Counted` follows."""

    conversation: Conversation
    model: str


class Recall(msgspec.Struct, frozen=True):
    """Look up what is remembered of a session; `Recalled` follows."""

    org: str
    session: str


class Rate(msgspec.Struct, frozen=True):
    """Take a client's word on an answer it got; `Rated` follows."""

    feedback: Feedback
    caller: Caller


class Learn(msgspec.Struct, frozen=True):
    """Count an outcome. `prior`: the chance of success that was promised."""

    org: str
    key: str
    cell: str
    backend: str
    prior: float
    outcome: Learnable


class Mirror(msgspec.Struct, frozen=True):
    """Ask another chain the same; nobody waits for its answer. Headers are the client's own, without its pins."""

    chain: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Leave(msgspec.Struct, frozen=True):
    """The stage has nothing more to do: end the gRPC stream from our side."""


Action = (Proceed | Emit | Reply | Reserve | Begin | End | Finish | Count | Identify | Recall | Rate | Learn | Mirror
          | Warn | Leave)


class Judged(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What is learnt from a request's answer: its cell, what was promised of it, and the session that goes on."""

    cell: str = ""
    task: str = ""
    promised: dict[str, int] = {}
    """The chance of success that the prior promised, in thousandths, by backend of the chain."""
    limit: int | None = None
    """Output tokens that the client itself allowed."""
    cuts: bool = False
    """Whether an answer may end before it is complete (a completion, a probe)."""
    complex: bool = False
    """Whether the complex chain was chosen: the day's dollars are its."""
    session: str = ""
    signature: int = 0
    turns: int = 0
    memory: Memory | None = None
    """What was remembered of the session when the request came."""
    shadow: bool = False
    """Whether this is a copy of another request, asked to see what would come."""
    escalates: bool = True
    """Whether an answer of the complex chain makes the session stay there."""
    counts: bool = True
    """Whether the answer is counted as it looks; else only what its client says of it is."""


class Carried(msgspec.Struct, frozen=True, rename="camel"):
    """The decision as it travels in dynamic metadata from the request stage to the attempts. Keep it small.

    `query` and `passed` (the client's headers that its own schema may see) travel here because an attempt at another
    schema removes them from the request that the next attempt sees.
    """

    rid: str
    generation: str
    schema: str
    stream: bool
    include_usage: bool
    model: str
    estimate: int
    admitted: int
    admission: Admission
    query: str = ""
    passed: Mapping[str, str] = {}
    ask: Ask | None = None
    """The budgets and limits that the request was admitted with; None: no money is at stake."""
    taken: Shared | None = None
    bound: Bound | None = None
    granted: int = 0
    """The output tokens that were paid for: what is sent as the limit. 0: the client's own, if any."""
    backends: int = 1
    """How many backends the chain has: the last one's attempt has nothing to fail over to."""
    reserved: bool = True
    """False: the store did not answer; the attempts settle without a reservation, each as a record of its own."""
    judged: Judged | None = None
    reasoning: Shown = ""
    """What the request says of its reasoning: what passes of a cut stream may not be all that is billed."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Carried)


def pack(carried: Carried) -> str:
    """Serialize a decision for dynamic metadata."""
    return _encoder.encode(carried).decode()


def unpack(text: str) -> Carried:
    """Read a decision; raises msgspec.DecodeError when it is not one of ours."""
    return _decoder.decode(text)
