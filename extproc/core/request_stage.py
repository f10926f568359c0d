"""The request stage: once per client request. Authenticate, parse, route, reserve; at the end say finish.

States: headers -> (identifying) -> body -> (recalling) -> (counting) -> reserving -> (weighing -> reserving) -> waiting
(for the response) -> finishing -> over. A client's feedback: body -> rating -> over.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import msgspec

from extproc import names
from extproc.core import answer_headers, asking, charging, choosing, cut, entrance, feedback
from extproc.core.admission import Shared
from extproc.core.dispatch import passed
from extproc.core.endpoints import ALLOW, Endpoint, find, models_list, one_model
from extproc.core.errors import GatewayError, Problem, RequestError
from extproc.core.events import (
    Action,
    Admission,
    Carried,
    Closed,
    Count,
    Counted,
    Event,
    Finish,
    Finished,
    Identified,
    Identify,
    Leave,
    Proceed,
    Rate,
    Rated,
    Recalled,
    Reply,
    RequestBody,
    RequestHeaders,
    Reserve,
    Reserved,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Warn,
    header_text,
    pack,
    whole_number,
)
from extproc.core.identity import ANYBODY
from extproc.core.routing.flow import Decision, decide
from extproc.core.routing.sessions import Memory
from extproc.core.routing.view import View
from extproc.runtime import Runtime
from extproc.schemas import CLIENTS
from extproc.schemas.base import ClientSchema

JSON = {"content-type": "application/json"}
_EARLY = ("headers", "identifying", "body", "recalling", "rating", "counting", "weighing", "reserving")
"""The states before our decision is told to Envoy."""

class RequestStage:
    """Sans-IO: `receive(event, now)` returns actions. `now` is milliseconds since the epoch."""

    def __init__(self, runtime: Runtime, rid: str, view: View) -> None:
        self._runtime, self._rid, self._view = runtime, rid, view
        self._state = "headers"
        self._schema: ClientSchema = CLIENTS["openai"]
        self._endpoint: Endpoint | None = None
        self._headers: Mapping[str, str] = {}
        self._caller, self._bodiless = ANYBODY, False
        self._known: choosing.Parsed | None = None
        self._rates = ""
        self._decision: Decision | None = None
        self._carried: Carried | None = None
        self._awaits = False  # the store has not answered a reservation yet
        self._reserved = False  # the store holds something for this request, or may
        self._asking: asking.Asking | None = None
        self._granted: Reserved | None = None
        self._taken: Shared | None = None
        self._tried: tuple[str, ...] = ()

    @property
    def tried(self) -> tuple[str, ...]:
        """The backends of the chain that was granted, in order."""
        return self._tried

    @property
    def carried(self) -> Carried | None:
        """The decision while the store holds a reservation for it: what keeps its lease alive."""
        return self._carried if self._reserved and self._state != "over" else None

    def receive(self, event: Event, now: int) -> list[Action]:
        """Take one event. Whatever the client sent wrong becomes a Reply; nothing else is raised."""
        try:
            return self._receive(event, now)
        except GatewayError as error:
            self._state = "over"
            return [self._reply(error.problem)]

    def _receive(self, event: Event, now: int) -> list[Action]:
        match event:
            case RequestHeaders() if self._state == "headers":
                return self._on_headers(event, now)
            case Identified() if self._state == "identifying":
                return self._on_identified(event, now)
            case RequestBody() if self._state == "body":
                return self._on_body(event, now)
            case Recalled() if self._state == "recalling":
                return self._choose(event.memory, now)
            case Rated() if self._state == "rating":
                return self._on_rated(event)
            case Reserved() if self._awaits:
                return self._on_reserved(event)
            case ResponseHeaders() if self._state == "waiting":
                return self._on_response(event)
            case Finished() if self._state == "finishing":
                return self._on_finished(event)
            case Counted() if self._state == "counting":
                return self._on_counted(event)
            case Counted() if self._state == "weighing":
                return self._on_weighed(event)
            case Closed():
                return self._on_closed()
            case ResponseHeaders() if self._state in _EARLY:
                return self._on_local_reply(event)
            case ResponseHeaders():
                return [Proceed("response_headers", remove=(names.RETRY,)), Leave()]
            case ResponseBody() | ResponseTrailers() | RequestBody() | RequestHeaders():
                return [Leave()]
            case _:
                return []  # an answer of the ledger that nobody waits for any more

    # ------------------------------------------------------------------------------------ request

    def _on_headers(self, event: RequestHeaders, now: int) -> list[Action]:
        self._headers, self._bodiless = event.headers, event.end_of_stream
        endpoint = find(event.headers)
        self._endpoint, self._schema = endpoint, CLIENTS[endpoint.schema]
        if endpoint.kind == "unknown":
            raise RequestError(f"unknown path or method: {endpoint.said}", kind="not_found", param="path")
        if endpoint.kind == "health":
            return self._answer(b'{"status":"ok"}')
        if endpoint.kind == "options":
            self._state = "over"
            return [Reply(204, {"allow": ALLOW}, b"")]
        known = entrance.authenticate(self._runtime, self._headers, now)
        if isinstance(known, list):
            self._state = "identifying"
            return [Identify(tuple(sha256(secret.encode("utf-8", "surrogateescape")).digest() for secret in known))]
        self._caller = known
        return self._on_known(endpoint)

    def _on_identified(self, event: Identified, now: int) -> list[Action]:
        if event.unavailable:
            raise GatewayError(Problem("unavailable", "keys cannot be checked: the store is not reachable; try again",
                                       retry_after=2, should_retry=True))
        if event.caller is None or not event.caller.valid(now):
            raise RequestError(entrance.NO_KEY, kind="authentication")
        self._caller = event.caller
        assert self._endpoint is not None
        return self._on_known(self._endpoint)

    def _on_known(self, endpoint: Endpoint) -> list[Action]:
        """The caller is known: answer from here, or have the body sent."""
        anthropic = self._schema.family == "anthropic"
        if endpoint.kind == "models":
            return self._answer(models_list(self._runtime, anthropic))
        if endpoint.kind == "model":
            if (listed := one_model(self._runtime, anthropic, endpoint.model)) is None:
                raise RequestError(f"unknown model {endpoint.model[:100]}", kind="not_found", param="model")
            return self._answer(listed)
        entrance.check_body(self._headers, self._runtime.config.max_body, bodiless=self._bodiless)
        self._state = "body"
        return [Proceed("request_headers")]

    def _answer(self, body: bytes, more: Mapping[str, str] | None = None) -> list[Action]:
        """Answer from here with JSON; `more`: further headers."""
        self._state = "over"
        return [Reply(200, {**JSON, **self._told(), **(more or {})}, body)]

    def _on_body(self, event: RequestBody, now: int) -> list[Action]:
        assert self._endpoint is not None
        if self._endpoint.kind == "feedback":
            self._state = "rating"
            said = feedback.parse(event.body)
            self._rates = said.request_id
            return [Rate(said, self._caller)]
        conversation = self._schema.parse_request(event.body)
        self._known = choosing.parsed(self._endpoint, conversation, event.body, self._headers, self._caller)
        if (recall := choosing.recall(self._runtime, self._known)) is not None:
            self._state = "recalling"
            return [recall]
        return self._choose(None, now)

    def _choose(self, memory: Memory | None, now: int) -> list[Action]:
        """Decide, with what is remembered of the session."""
        known, view = self._known, self._view
        assert known is not None
        conversation, facts = known.conversation, choosing.informed(known, view, memory, now)
        lesson = choosing.lesson(memory, facts)
        decision = decide(self._runtime, facts, conversation, view, now=now, rid=self._rid,
                          allowed=self._caller.routes, client=self._schema.name, memory=memory)
        self._decision = decision
        if decision.count_here:
            self._state = "counting"
            return [Count(conversation, decision.model)]
        admission = self._admission(decision, facts.project)
        self._carried = Carried(
            rid=self._rid, generation=self._runtime.generation, schema=self._schema.name, stream=conversation.stream,
            include_usage=conversation.stream_usage, model=decision.model, estimate=facts.input_tokens, admitted=now,
            admission=admission,
            query=self._headers.get(":path", "").partition("?")[2],
            passed=passed(self._schema.name, self._headers), backends=len(decision.chain.backends),
            judged=choosing.judged(decision, known, facts, view, memory, read=self._reads(decision, known, now)),
            reasoning=cut.shown(conversation),
        )
        self._asking = asking.asked(
            self._runtime, decision, admission, conversation, known.body, facts.input_tokens)
        return [*lesson, *self._reserve()]

    def _reads(self, decision: Decision, known: choosing.Parsed, now: int) -> bool:
        """Whether the text of a request that was not weighed is read all the same."""
        return choosing.tellable(self._runtime, decision, known) and self._view.knowledge.may_read(now)

    def _on_rated(self, event: Rated) -> list[Action]:
        if event.unavailable:
            raise GatewayError(Problem("unavailable", "the store is not reachable; try again", retry_after=2,
                                       should_retry=True))
        if not event.known:
            raise feedback.unknown(self._rates)
        self._state = "over"
        return [Reply(202, {**JSON, **self._told()}, feedback.ACCEPTED)]

    def _reserve(self) -> list[Action]:
        assert self._carried is not None and self._decision is not None
        self._state, self._awaits = "reserving", True
        plan = None if self._asking is None else self._asking.plan
        who, decision = self._carried.admission, self._decision
        again = self._asking is not None and self._asking.weighed
        counts = {} if decision.valued is None or again else decision.valued.counts
        shadow_of = "" if self._known is None else header_text(self._known.shadow)
        return [Reserve(who, plan, self._carried.admitted, decision, counts, shadow_of)]

    def _admission(self, decision: Decision, project: str) -> Admission:
        caller, known = self._caller, self._known
        assert known is not None
        return Admission(
            org=caller.org, team=caller.team, project=project, user=caller.user, key=caller.key, route=decision.route,
            reason=decision.reason, model=known.conversation.model[:128], schema=self._schema.name,
            stream=known.conversation.stream,
        )

    def _on_reserved(self, event: Reserved) -> list[Action]:
        self._awaits, self._reserved, self._taken = False, asking.holds(event), event.taken
        if self._state == "over":  # the client left, or was answered, meanwhile: at once nothing is held any more
            return self._finish(wait=False, status=0)
        if event.code == "GONE":
            return self._refuse(asking.GONE)
        if event.code == "DENIED" or (event.code == "unavailable" and self._runtime.denies):
            return self._refuse(asking.DENIED)
        if event.code not in ("OK", "unavailable"):
            return self._on_refused(event)
        return self._dispatch(event)

    def _dispatch(self, event: Reserved) -> list[Action]:
        """Hand the request to the attempts at the chain that was granted."""
        assert self._carried is not None and self._decision is not None
        self._state, self._reserved = "waiting", event.code == "OK"
        warn: list[Action] = []
        if not self._reserved:
            warn.append(Warn("the store did not answer a reservation; the request goes on and is recorded later"))
        chain, carried = self._decision.chain, self._carried
        if self._asking is not None and event.grant is not None:
            self._granted = event
            chain, carried = asking.granted(self._runtime, self._asking, event, carried)
            if (left := charging.left(event)) is not None:
                who = carried.admission
                self._view.knowledge.note_left((who.org, who.team, who.key), left)
        assert self._known is not None
        copies = choosing.mirror(self._decision, self._known, self._headers, self._rid)
        self._asking = self._known = None  # the body is Envoy's from here on
        self._decision = msgspec.structs.replace(self._decision, basis=None)  # and so is the ask
        self._carried = msgspec.structs.replace(carried, reserved=self._reserved, backends=len(chain.backends))
        self._tried = tuple(backend.id for backend in chain.backends)
        return [*warn, *copies, Proceed(
            "request_body", clear_route=True, decision=pack(self._carried),
            set={
                names.CLUSTER: chain.cluster,
                names.MAX_RETRIES: str(len(chain.backends) - 1),
                names.PER_TRY_TIMEOUT:
                    self._runtime.first_event_ms if carried.stream and len(chain.backends) > 1
                    else self._runtime.answer_ms,
            },
        )]

    def _on_refused(self, event: Reserved) -> list[Action]:
        """Refuse, unless an exact count of the prompt may show that it fits."""
        kept = self._asking
        assert kept is not None
        if (model := asking.exact_model(self._runtime, kept, event)) is not None:
            self._state = "weighing"
            return [Count(kept.conversation, model)]
        return self._refuse(charging.refused(event, int(self._rid[-2:], 16) / 255))

    def _on_weighed(self, event: Counted) -> list[Action]:
        """Ask again with the prompt's exact count as its bound."""
        assert self._asking is not None
        self._asking = asking.weighed(self._runtime, self._asking, event.tokens)
        return self._reserve()

    def _refuse(self, problem: Problem) -> list[Action]:
        """Answer with a problem, and give back what the store holds, or may."""
        self._state = "over"
        return [*self._finish(wait=False, status=problem.http_status), self._reply(problem)]

    def _on_counted(self, event: Counted) -> list[Action]:
        """Answer a token count that no backend of the route can give."""
        return self._answer(b'{"input_tokens":%d}' % event.tokens, {names.WARNINGS: "emulated: count_tokens"})

    def _finish(self, *, wait: bool, status: int, attempt: int = 0, backend: str = "") -> list[Action]:
        """Say finish to a ledger that took the reservation, or may have: it may be said of any request."""
        org = self._carried.admission.org if self._carried is not None else self._caller.org
        finish = Finish(wait=wait, status=status, org=org, attempt=attempt, backend=backend, taken=self._taken)
        return [finish] if self._reserved else []

    # ------------------------------------------------------------------------------------ response

    def _on_response(self, event: ResponseHeaders) -> list[Action]:
        """The final response headers: no further attempt can come.

        An answer without our attempt's mark is Envoy's own (no host, connection refused, deadline): it is replaced by
        the last useful error, which the ledger knows.
        """
        status = whole_number(event.headers.get(":status", "")) or 0
        if names.BACKEND not in event.headers:
            self._state = "finishing"
            return self._finish(wait=True, status=status) or self._on_finished(Finished(None, 0))
        self._state = "over"
        attempt = whole_number(event.headers.get(names.ATTEMPTS, "")) or 0
        backend = f"{event.headers[names.BACKEND]}/{event.headers.get(names.MODEL, '')}"
        return [
            *self._finish(wait=False, status=status, attempt=attempt, backend=backend),
            Proceed("response_headers", set=self._told(), remove=(names.RETRY, "x-envoy-upstream-service-time")),
            Leave(),
        ]

    def _on_local_reply(self, event: ResponseHeaders) -> list[Action]:
        """Envoy refused the request before our decision (a body over its buffer): say it in the client's shape."""
        status = whole_number(event.headers.get(":status", "")) or 0
        problem = Problem("too_large", f"the body is longer than {self._runtime.config.max_body} bytes", "body")
        if status != problem.http_status:
            problem = Problem("unavailable", "the gateway could not take this request; send it again", status=status)
        return self._refuse(problem)

    def _on_finished(self, event: Finished) -> list[Action]:
        self._state = "over"
        problem = event.problem or Problem("unavailable", self._nobody(), retry_after=2)
        reply = self._reply(problem)
        return [msgspec.structs.replace(reply, headers={**reply.headers, names.ATTEMPTS: str(event.attempts)})]

    def _nobody(self) -> str:
        """What a client is told when no attempt came about; whoever runs the gateway sees which server to start."""
        asked = () if self._decision is None else dict.fromkeys(b.name for b in self._decision.chain.backends)
        of = f" of {', '.join(asked)}" if asked else ""
        return f"no backend could be reached{of}; try again shortly"

    def _on_closed(self) -> list[Action]:
        """The client left before any response: what is reserved can be released. A reservation that the store has not
        answered yet is released when it has."""
        state, self._state = self._state, "over"
        return self._finish(wait=False, status=0) if state == "waiting" else []

    # ------------------------------------------------------------------------------------ answers

    def _told(self) -> dict[str, str]:
        told = {names.REQUEST_ID: self._rid}
        if self._schema.family == "anthropic":
            told["request-id"] = self._rid
        else:
            told["x-request-id"] = self._rid
        if self._decision is not None:
            told[names.ROUTE] = header_text(self._decision.route)
            told[names.REASON] = header_text(self._decision.reason)
        granted = self._granted
        if granted is not None and granted.grant is not None and granted.ask is not None:
            told |= charging.told(granted.grant, granted.ask, self._schema.family)
        return told

    def _reply(self, problem: Problem) -> Reply:
        return answer_headers.reply(problem, self._schema, self._rid, self._told())
