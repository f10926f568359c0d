"""The attempt stage: once per attempt at one backend. Translate out, translate back, count, settle.

States: headers -> body -> (begun) -> waiting -> reading (headers held) -> streaming -> over.
The response headers are held until the first event, so that anything that fails before it moves the request to the
next backend and the client sees one clean answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from extproc import names
from extproc.core import answer_headers as told
from extproc.core import cut, pricing
from extproc.core.answer import Reading, StreamAnswer, WholeAnswer
from extproc.core.bound import absurd, need
from extproc.core.conversation import Failure
from extproc.core.dispatch import Said, prepare
from extproc.core.errors import GatewayError, Problem, UpstreamError
from extproc.core.events import (
    Action,
    Begin,
    Begun,
    Carried,
    Closed,
    Emit,
    End,
    Event,
    Idle,
    Outcome,
    Proceed,
    Reply,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Silence,
    Warn,
    unpack,
    whole_number,
)
from extproc.core.failover import helps, readable
from extproc.core.offered import watch_for
from extproc.core.repair import ToolCallRepair
from extproc.core.retry_after import told_ms
from extproc.core.routing.outcomes import Watch
from extproc.core.routing.signals import BYTES_PER_TOKEN
from extproc.core.toolbox import Filter, Restorer
from extproc.core.usage import PLAIN, Terms, Tokens
from extproc.dialects.fim import PlainText
from extproc.money.amounts import Need
from extproc.runtime import ANY, Runtime
from extproc.schemas import CLIENTS, PROVIDERS
from extproc.schemas.base import ClientSchema
from extproc.wire.content_encoding import Undecodable, decoder

MAX_ERROR_BODY = 1 << 20

_NOT_BEGUN = {
    "GONE": Problem("unavailable", "the reservation of this request is gone; send it again"),
    "DENIED": Problem("unavailable", "the ledger cannot be reached, and budgets are in force; try again shortly",
                      retry_after=2, should_retry=True),
    "BUDGET": Problem("quota", "the budget does not cover another attempt at this request", should_retry=False),
}
"""What a client is told of an attempt that the ledger does not let begin."""


class AttemptStage:
    """Sans-IO: `receive(event, now)` returns actions. `now` is milliseconds since the epoch."""

    def __init__(self, runtime_of: Callable[[str], Runtime]) -> None:
        self._runtime_of = runtime_of
        self._state = "headers"
        self._client: ClientSchema = CLIENTS["openai"]
        self._carried: Carried | None = None
        self._number = 0
        self._request: Mapping[str, str] = {}
        self._body: bytes | None = None
        self._begun = False
        self._known = True  # whether the ledger knows of this attempt
        self._started = 0
        self._first_event: int | None = None
        self._response: Mapping[str, str] = {}
        self._status = 0
        self._said: Said | None = None
        self._watch: Watch | None = None
        self._warnings = ""
        self._error_body = b""
        self._settled = True
        self._cut = False  # the provider's answer ended before it was complete
        self._answer: WholeAnswer | StreamAnswer | None = None
        self._most: Need | None = None  # that this attempt can cost
        self._heard = False
        self._model = ""

    @property
    def streaming(self) -> bool:
        """Whether bytes went to the client and more are due: only then does silence matter."""
        return self._state == "streaming"

    @property
    def waits(self) -> bool:
        """Whether a client's stream waits for bytes that only we can give it: a ping keeps it alive.

        Before the provider's first event that is so with the last backend alone: a ping commits to an answer.
        """
        return self._state == "streaming" or (
            self._state == "reading" and isinstance(self._answer, StreamAnswer) and self._last)

    @property
    def patience(self) -> float:
        """Seconds without a byte from the provider after which its stream is given up.

        A stream that was only kept alive so far has as long as an answer that is not streamed.
        """
        limits = self._limits
        return limits.silence_timeout if self._first_event is not None else limits.answer_timeout

    @property
    def carried(self) -> Carried | None:
        """The decision this attempt belongs to, once known."""
        return self._carried

    def receive(self, event: Event, now: int) -> list[Action]:
        """Take one event. Errors of client or provider become actions; nothing else is raised."""
        try:
            return self._receive(event, now)
        except UpstreamError as error:
            return self._broken(error.problem, now)
        except Undecodable as error:
            return self._broken(Problem("upstream", str(error)), now)
        except GatewayError as error:
            # Before the dispatch: the request cannot be said to this backend.
            actions = self._end("failed", now, error.problem)
            self._state = "over"
            return [*actions, self._reply(error.problem)]

    def _receive(self, event: Event, now: int) -> list[Action]:
        match event:
            case ResponseBody() if self._state in ("streaming", "reading"):
                return self._on_chunk(event.chunk, event.end_of_stream, now)
            case RequestHeaders() if self._state == "headers":
                return self._on_headers(event, now)
            case RequestBody() if self._state == "body":
                self._body = event.body
                return self._dispatch() if self._begun else []
            case Begun() if self._state == "body":
                return self._on_begun(event)
            case ResponseHeaders() if self._state == "waiting":
                return self._on_response(event, now)
            case ResponseTrailers() if self._state in ("streaming", "reading"):
                return [*self._on_chunk(b"", True, now), Proceed("response_trailers")]
            case Idle() if self.waits:
                return self._ping()
            case Silence() if self._state == "streaming":
                raise UpstreamError("the provider fell silent", kind="timeout")
            case Closed():
                actions = self._end("estimated", now, None) if self._state != "over" else []
                self._state = "over"
                return actions
            case ResponseTrailers():
                return [Proceed("response_trailers")]
            case ResponseBody() if self._state == "over":
                return []
            case ResponseHeaders():
                return [Proceed("response_headers")]
            case _:
                return []

    # ------------------------------------------------------------------------------------ request

    def _on_headers(self, event: RequestHeaders, now: int) -> list[Action]:
        self._number, self._request, self._started = event.attempt, event.headers, now
        self._unseen = cut.Unseen(now)
        try:
            carried = unpack(event.decision)
            runtime = self._runtime_of(carried.generation)
            self._backend, self._client = runtime.backends[event.target], CLIENTS[carried.schema]
        except (msgspec.DecodeError, KeyError, RecursionError):
            # No decision of ours, or a host without our mark: nothing may leave for a provider.
            self._state = "over"
            problem = Problem("unavailable", "this request was not admitted by the gateway; send it again")
            return [self._reply(problem)]
        if self._backend.model == ANY:
            self._backend = runtime.resolve(self._backend.name, carried.model)
        self._carried, self._failover = carried, frozenset(runtime.config.failover.on)
        self._baseline = runtime.baseline
        self._price_of = runtime.price_of
        self._limits, self._last = runtime.config.failover, self._number >= carried.backends
        self._model = self._backend.model
        self._state, self._settled = "body", False
        self._begun = not carried.reserved  # of which the store knows nothing, and nobody answers
        self._most = self._need(carried)
        return [Begin(self._number, self._backend.name, self._model, self._most), Proceed("request_headers")]

    def _need(self, carried: Carried) -> Need | None:
        """The most that this attempt can cost; None where no budget is in force."""
        if carried.bound is None or carried.ask is None:
            return None
        return need(carried.bound, self._backend, carried.granted, self._price_of)

    def _on_begun(self, event: Begun) -> list[Action]:
        if (problem := _NOT_BEGUN.get(event.code)) is not None:
            self._state, self._settled = "over", True
            return [self._reply(problem)]
        self._begun, self._known = True, event.code == "OK"
        return self._dispatch() if self._body is not None else []

    def _dispatch(self) -> list[Action]:
        assert self._carried is not None and self._body is not None
        sent = prepare(self._carried, self._backend, self._request, self._body)
        self._watch = watch_for(self._carried, sent.said, self._body)
        self._body, self._request = None, {}
        self._said, self._warnings = sent.said, sent.warnings
        self._state = "waiting"
        return [sent.proceed]

    # ------------------------------------------------------------------------------------ response

    def _on_response(self, event: ResponseHeaders, now: int) -> list[Action]:
        carried = self._carried
        assert carried is not None
        self._response, self._state = event.headers, "reading"
        self._status = whole_number(event.headers.get(":status", "")) or 0
        self._decode = decoder(event.headers.get("content-encoding")).decode
        if self._status == 200:
            how = self._reading(carried)
            self._answer = StreamAnswer(how) if carried.stream else WholeAnswer(how)
        return self._on_chunk(b"", True, now) if event.end_of_stream else []

    def _reading(self, carried: Carried) -> Reading:
        """How the answer gets from the backend's schema into the client's."""
        said = self._said
        assert said is not None
        filters: list[Filter] = []
        if said.repairs:
            filters.append(ToolCallRepair(said.repairs, salt=carried.rid).feed)
        if said.recall:
            filters.append(Restorer(said.recall).feed)
        if said.filling is not None:
            filters.append(PlainText(said.filling).feed)
        return Reading(self._client, PROVIDERS[said.wire], self._backend.model, carried.admitted // 1000, carried.rid,
                       carried.include_usage, tuple(filters), said.rewrite, self._watch)

    def _ping(self) -> list[Action]:
        """Keep the client's stream alive while the provider is slow.

        Before the provider's first byte that is the response's headers alone: Envoy takes no body from us then, it
        would end the stream over a "spurious message".
        """
        actions: list[Action] = []
        if self._state == "reading":
            self._state = "streaming"
            actions.append(self._release(200, self._headers_for_client("text/event-stream", None)))
        if self._heard:
            actions.append(Emit(self._client.ping(), False))
        return actions

    def _on_chunk(self, chunk: bytes, end: bool, now: int) -> list[Action]:
        self._heard = self._heard or bool(chunk)
        plain = self._decode(chunk)
        answer = self._answer
        if answer is None:
            self._error_body = (self._error_body + plain)[:MAX_ERROR_BODY]
            return self._refused(now) if end else []
        if isinstance(answer, WholeAnswer):
            answer.feed(plain)
            return self._whole(answer, now) if end else []
        return self._stream(answer, plain, end, now)

    def _refused(self, now: int) -> list[Action]:
        """A complete error answer of the provider."""
        assert self._said is not None
        problem = PROVIDERS[self._said.wire].parse_error(self._status, self._error_body)
        if (after := whole_number(self._response.get("retry-after", ""))) is not None:
            problem = msgspec.structs.replace(problem, retry_after=after)
        return self._failed(problem, now)

    def _whole(self, answer: WholeAnswer, now: int) -> list[Action]:
        try:
            body = answer.finish()
        except UpstreamError:
            self._cut = answer.cut
            raise
        self._first_event = now
        if (failure := answer.learnt.failure) is not None:
            return self._failed(_problem(failure), now)
        ended = self._end("exact" if answer.learnt.tokens.complete else "estimated", now, None)
        self._state = "over"
        headers = self._headers_for_client("application/json", len(body))
        for action in ended:
            if isinstance(action, End) and action.cost is not None:
                headers[names.COST_USD] = pricing.usd_text(action.cost)
        return [*ended, self._release(200, headers), *_emit(body, end=True)]

    def _stream(self, answer: StreamAnswer, plain: bytes, end: bool, now: int) -> list[Action]:
        out = answer.feed(plain)
        learnt = answer.learnt
        self._unseen.passed(learnt.characters, now)
        if end and not learnt.done:
            out += answer.close()
            self._cut = not learnt.done and learnt.failure is None
        if learnt.failure is not None:
            problem = _problem(learnt.failure)
            if self._state == "reading":
                return self._failed(problem, now)
            return [*_emit(out, end=False), *self._broken(problem, now)]
        actions: list[Action] = []
        if self._first_event is None and (learnt.started or learnt.done or out):
            self._first_event = now
            if self._state == "reading":
                self._state = "streaming"
                actions.append(self._release(200, self._headers_for_client("text/event-stream", None)))
        if end and not learnt.done:
            return [*actions, *_emit(out, end=False),
                    *self._broken(Problem("upstream", "the provider's stream ended early"), now)]
        if learnt.done:
            actions += self._end("exact" if learnt.tokens.complete else "estimated", now, None)
        if end:
            self._state = "over"
        return [*actions, *_emit(out, end=end)]

    def _failed(self, problem: Problem, now: int) -> list[Action]:
        """Nothing went to the client yet: the error as its answer, marked for the next backend where that helps."""
        actions = self._end("failed", now, problem)
        own = (self._said is not None and self._client.name == self._said.wire
               and readable(problem, self._status, self._response, self._error_body, self._client))
        body = self._error_body if own else self._client.render_error(problem, self._rid)
        headers = self._headers_for_client("application/json", len(body))
        if helps(problem, self._status, self._failover):
            headers[names.RETRY] = "1"
        if problem.retry_after is not None:
            headers["retry-after"] = str(problem.retry_after)
        self._state = "over"
        return [*actions, self._release(problem.http_status, headers), *_emit(body, end=True)]

    def _broken(self, problem: Problem, now: int) -> list[Action]:
        """The answer turned bad: before the first byte like any failure, after it with the schema's error event."""
        if self._state != "streaming":
            return self._failed(problem, now)
        actions = self._end("estimated", now, problem)
        self._state = "over"
        already = isinstance(self._answer, StreamAnswer) and self._answer.learnt.done
        chunk = b"" if already else self._client.render_stream_error(problem, self._rid)
        return [*actions, *_emit(chunk, end=True)]

    # ------------------------------------------------------------------------------------ accounts

    def _end(self, outcome: Outcome, now: int, problem: Problem | None) -> list[Action]:
        """Settle once, by what is known now."""
        if self._settled or self._carried is None:
            return []
        self._settled = True
        learnt = self._answer.learnt if self._answer is not None else None
        tokens, terms = (learnt.tokens, learnt.terms) if learnt is not None else (Tokens(), PLAIN)
        cost, warnings = self._cost(tokens, terms), list[Action]()
        if outcome != "failed" and absurd(tokens, terms, cost, self._most):
            warnings.append(Warn(f"{self._backend.id} reported a usage that cannot be: {tokens} {terms}"))
            outcome, tokens, terms = "estimated", Tokens(), PLAIN
        if outcome == "estimated":
            tokens = self._seen(tokens, learnt.characters if learnt is not None else 0, now)
            cost = self._cost(tokens, terms)
        return [*warnings, End(
            attempt=self._number, backend=self._backend.name, model=self._model, outcome=outcome,
            final=outcome == "exact", tokens=tokens,
            cost=0 if outcome == "failed" and not tokens.complete else cost,
            status=self._status, duration_ms=now - self._started,
            first_event_ms=None if self._first_event is None else self._first_event - self._started,
            reported_model=learnt.model if learnt is not None else "",
            finish_reason=learnt.finish if learnt is not None else "", problem=problem,
            begun=self._known, price_version=self._backend.price.version if self._backend.price else "",
            terms=terms,
            counterfactual=pricing.cost(tokens, self._baseline) if self._baseline is not None else None,
            flaws=self._flaws(problem), closed=self._cut, retry_after_ms=self._asked(problem, now),
        )]

    def _cost(self, tokens: Tokens, terms: Terms) -> int | None:
        return pricing.cost(tokens, self._backend.price, terms,
                            lambda model: self._price_of(self._backend.name, model))

    def _flaws(self, problem: Problem | None) -> tuple[str, ...]:
        """What is wrong with an answer that came to its end."""
        if problem is not None or self._watch is None or self._answer is None or not self._answer.learnt.finish:
            return ()
        return self._watch.flaws()

    def _asked(self, problem: Problem | None, now: int) -> int | None:
        """How long the provider asks to be left alone after this problem, in ms."""
        if problem is None or self._status < 400:
            return None
        return told_ms(self._response, now, limited=problem.kind == "rate_limit")

    def _seen(self, tokens: Tokens, characters: int, now: int) -> Tokens:
        """The tokens of a cut exchange, as far as they can be known."""
        carried = self._carried
        if self._state in ("headers", "body") or carried is None:
            return Tokens(input=0, output=0)  # never dispatched
        unseen = self._unseen.ms(now) * self._backend.most_tokens_per_second // 1000
        known = cut.Cut(tokens, characters, carried.estimate * BYTES_PER_TOKEN, carried.granted, unseen)
        # Of an answer that came whole all has passed, though it says nothing of its usage.
        passes = carried.stream or self._first_event is not None
        how = cut.rule(self._model, carried.reasoning, self._backend.on_cut, passes=passes)
        return known.used(self._model, how)

    # ------------------------------------------------------------------------------------ answers

    @property
    def _rid(self) -> str:
        return self._carried.rid if self._carried is not None else ""

    def _headers_for_client(self, content_type: str, length: int | None) -> dict[str, str]:
        return told.headers(content_type, length, self._backend.name, self._model, self._number, self._warnings)

    def _release(self, status: int, headers: Mapping[str, str]) -> Proceed:
        return Proceed("response_headers", set={":status": str(status), **headers},
                       remove=told.removed(self._response, headers))

    def _reply(self, problem: Problem) -> Reply:
        return told.reply(problem, self._client, self._rid, {names.BACKEND: "none"})


def _problem(failure: Failure) -> Problem:
    return Problem(failure.kind, failure.message, status=failure.status)


def _emit(chunk: bytes, *, end: bool) -> list[Action]:
    return [Emit(chunk, end)] if chunk or end else []


