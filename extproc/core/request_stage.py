"""The request stage: once per client request. Authenticate, parse, route, reserve; at the end say finish.

States: headers -> body -> reserving -> waiting (for the response) -> finishing -> over.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import msgspec

from extproc import names
from extproc.core import charging, routing, signals
from extproc.core.admission import Identity, Plan, plan_for, priced, resolved
from extproc.core.bound import Bound, bound_of
from extproc.core.claims import caller_of
from extproc.core.complexity import Scorer
from extproc.core.conversation import Conversation
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
from extproc.runtime import Chain, Runtime
from extproc.schemas import CLIENTS
from extproc.schemas.base import ClientSchema
from extproc.tokens import TEMPLATE_CEILING
from extproc.wire.json_splice import TopLevel

JSON = {"content-type": "application/json"}
_NO_KEY = "the API key or token is not valid"
_MISSING = "the API key is missing: send Authorization: Bearer KEY or x-api-key"


class _Asking(msgspec.Struct, frozen=True):
    """What is kept of a request until money for it is granted. `weighed`: its prompt was counted exactly."""

    conversation: Conversation
    bound: Bound
    tokens: int
    weighed: bool = False


class RequestStage:
    """Sans-IO: `receive(event, now)` returns actions. `now` is milliseconds since the epoch."""

    def __init__(self, runtime: Runtime, rid: str, scorer: Scorer) -> None:
        self._runtime, self._rid, self._scorer = runtime, rid, scorer
        self._state = "headers"
        self._schema: ClientSchema = CLIENTS["openai"]
        self._endpoint: Endpoint | None = None
        self._headers: Mapping[str, str] = {}
        self._caller, self._bodiless = ANYBODY, False
        self._decision: routing.Decision | None = None
        self._carried: Carried | None = None
        self._reserved = False
        self._asking: _Asking | None = None
        self._granted: Reserved | None = None

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
            case Reserved() if self._state == "reserving":
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
            case ResponseHeaders() if self._state in ("headers", "body", "reserving"):
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
        if unknown := self._authenticate(now):
            self._state = "identifying"
            return [Identify(tuple(sha256(secret.encode("utf-8", "surrogateescape")).digest() for secret in unknown))]
        return self._on_known(endpoint)

    def _on_identified(self, event: Identified, now: int) -> list[Action]:
        if event.unavailable:
            raise GatewayError(Problem("unavailable", "keys cannot be checked: the store is not reachable; try again",
                                       retry_after=2, should_retry=True))
        if event.caller is None or not event.caller.valid(now):
            raise RequestError(_NO_KEY, kind="authentication")
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
        self._check_body_headers()
        self._state = "body"
        return [Proceed("request_headers")]

    def _answer(self, body: bytes) -> list[Action]:
        """Answer from here with JSON."""
        self._state = "over"
        return [Reply(200, {**JSON, **self._told()}, body)]

    def _authenticate(self, now: int) -> list[str]:
        """Check token or gateway key on the headers alone, so that the body of a stranger is never read.

        Returns the secrets that only the store may know; none when the caller is known.
        """
        self._caller = self._runtime.anybody
        auth = self._runtime.config.auth
        if auth.mode == "none":
            return []
        # Envoy puts the payload of a token that it verified here, and strips what a client sends under this name.
        payload = self._headers.get(names.JWT, "") if auth.mode == "jwt" else ""
        if payload and (holder := caller_of(payload, auth)) is not None and holder.valid(now):
            self._caller = holder
            return []
        bearer = self._headers.get("authorization", "")
        secrets = [bearer[7:].strip()] if bearer[:7].lower() == "bearer " else []
        secrets += [self._headers["x-api-key"]] if "x-api-key" in self._headers else []
        for secret in secrets:
            if (caller := self._runtime.caller(secret)) is not None and caller.valid(now):
                self._caller = caller
                return []
        if not secrets:  # a verified token is no secret any more: Envoy removed it
            raise RequestError(_NO_KEY if payload else _MISSING, kind="authentication")
        return secrets

    def _check_body_headers(self) -> None:
        headers = self._headers
        kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RequestError(f"content-type {kind[:80]} is not supported; send application/json",
                               kind="unsupported_media", param="content-type")
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding != "identity":
            raise RequestError(f"content-encoding {coding[:40]} is not supported; send the body uncompressed",
                               kind="unsupported_media", param="content-encoding")
        length = whole_number(headers.get("content-length", ""))
        if length is not None and length > self._runtime.config.max_body:
            raise RequestError(f"the body has {length} bytes; the limit is {self._runtime.config.max_body}",
                               kind="too_large", param="body")
        if self._bodiless:
            raise RequestError("a JSON body is required", param="body")

    def _on_body(self, event: RequestBody, now: int) -> list[Action]:
        assert self._endpoint is not None
        TopLevel(event.body)  # a field given twice would be read one way here and another way by a provider
        conversation = self._schema.parse_request(event.body)
        caller = self._caller
        facts = signals.extract(conversation, len(event.body), self._endpoint.route, self._headers, caller.key,
                                caller.team)
        decision = routing.decide(self._runtime, facts, conversation, self._scorer, caller.routes, self._schema.name)
        self._decision = decision
        if decision.count_here:
            self._state = "counting"
            return [Count(conversation, decision.model)]
        admission = self._admission(decision, conversation)
        self._carried = Carried(
            rid=self._rid, generation=self._runtime.generation, schema=self._schema.name, stream=conversation.stream,
            include_usage=conversation.stream_usage, model=decision.model, estimate=facts.input_tokens, admitted=now,
            admission=admission,
            query=self._headers.get(":path", "").partition("?")[2],
            passed=passed(self._schema.name, self._headers), backends=len(decision.chain.backends),
        )
        if self._runtime.has_money:
            self._asking = _Asking(conversation, bound_of(conversation, event.body), facts.input_tokens)
        return self._reserve()

    def _reserve(self) -> list[Action]:
        assert self._carried is not None
        self._state, self._reserved = "reserving", True
        return [Reserve(self._carried.admission, self._plan(), self._carried.admitted)]

    def _plan(self) -> Plan | None:
        """What the request asks of budgets and limits; None where there are none."""
        asking, decision = self._asking, self._decision
        if asking is None or decision is None or self._carried is None:
            return None
        who = self._carried.admission
        identity = Identity(who.org, who.team, who.project, who.user, who.key)
        return plan_for(self._runtime, identity, priced(self._runtime, decision.chain, decision.model), decision.model,
                        asking.bound, asking.conversation.max_tokens, asking.tokens)

    def _admission(self, decision: routing.Decision, conversation: Conversation) -> Admission:
        caller = self._caller
        # A key that belongs to a project spends for it alone, whatever a header says.
        project = caller.project or self._headers.get("x-extproc-project", "")[:64]
        return Admission(
            org=caller.org, team=caller.team, project=project, user=caller.user, key=caller.key, route=decision.route,
            reason=decision.reason, model=conversation.model[:128], schema=self._schema.name,
            stream=conversation.stream,
        )

    def _on_reserved(self, event: Reserved) -> list[Action]:
        if event.code == "GONE":
            raise GatewayError(Problem("unavailable", "the reservation of this request is gone; send it again"))
        assert self._carried is not None and self._decision is not None
        if event.code == "unavailable" and self._runtime.denies:
            self._reserved = False
            raise GatewayError(Problem("unavailable", "the ledger cannot be reached, and budgets are in force; try "
                                       "again shortly", retry_after=2, should_retry=True))
        if event.code not in ("OK", "unavailable"):
            return self._on_refused(event)
        self._state, self._reserved = "waiting", event.code == "OK"
        warn: list[Action] = []
        if not self._reserved:
            warn.append(Warn("the store did not answer a reservation; the request goes on and is recorded later"))
        chain = self._chain(event)
        self._asking = None
        return [*warn, Proceed(
            "request_body", clear_route=True,
            decision=pack(msgspec.structs.replace(
                self._carried, reserved=self._reserved, backends=len(chain.backends))),
            set={
                names.CLUSTER: chain.cluster,
                names.MAX_RETRIES: str(len(chain.backends) - 1),
                names.PER_TRY_TIMEOUT:
                    self._runtime.first_event_ms if self._carried.stream and len(chain.backends) > 1
                    else self._runtime.answer_ms,
            },
        )]

    def _chain(self, event: Reserved) -> Chain:
        """The chain that was granted, and what the attempts must know of the grant."""
        assert self._decision is not None and self._carried is not None
        if event.grant is None or self._asking is None:
            return self._decision.chain
        self._granted = event
        plan = self._plan()
        assert plan is not None
        chain = plan.chains[event.grant.option - 1]
        if event.skipped:
            chain = self._runtime.part(chain, list(chain.backends[event.skipped:]))
        self._carried = msgspec.structs.replace(
            self._carried, ask=event.ask, taken=event.taken, bound=self._asking.bound,
            granted=event.grant.max_tokens)
        return chain

    def _on_refused(self, event: Reserved) -> list[Action]:
        """Refuse, unless an exact count of the prompt may show that it fits."""
        asking, decision = self._asking, self._decision
        assert asking is not None and decision is not None and event.grant is not None
        # What backends share is asked for last: then the reservation stands, and is given back.
        self._reserved = event.code == "LIMIT" and event.grant.option > 0
        model = charging.exact_model(resolved(self._runtime, decision.chain.backends, decision.model))
        if event.code == "BUDGET" and not asking.weighed and asking.bound.passes == 0 and model is not None:
            self._state = "weighing"
            return [Count(asking.conversation, model)]
        problem = charging.refused(event, int(self._rid[-2:], 16) / 255)
        self._state = "over"
        return [*self._finish(wait=False, status=problem.http_status), self._reply(problem)]

    def _on_weighed(self, event: Counted) -> list[Action]:
        """Ask again with the prompt's exact count as its bound."""
        asking = self._asking
        assert asking is not None
        tokens = min(asking.bound.tokens, event.tokens + event.tokens // 20 + TEMPLATE_CEILING)
        self._asking = msgspec.structs.replace(
            asking, bound=msgspec.structs.replace(asking.bound, tokens=tokens), weighed=True)
        return self._reserve()

    def _on_counted(self, event: Counted) -> list[Action]:
        """Answer a token count that no backend of the route can give."""
        reply = self._answer(b'{"input_tokens":%d}' % event.tokens)
        assert isinstance(reply[0], Reply)
        return [msgspec.structs.replace(
            reply[0], headers={**reply[0].headers, names.WARNINGS: "emulated: count_tokens"})]

    def _finish(self, *, wait: bool, status: int) -> list[Action]:
        """Say finish to a ledger that took the reservation."""
        org = self._carried.admission.org if self._carried is not None else self._caller.org
        return [Finish(wait=wait, status=status, org=org)] if self._reserved else []

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
        return [
            *self._finish(wait=False, status=status),
            Proceed("response_headers", set=self._told(), remove=(names.RETRY, "x-envoy-upstream-service-time")),
            Leave(),
        ]

    def _on_local_reply(self, event: ResponseHeaders) -> list[Action]:
        """Envoy refused the request before our decision (a body over its buffer): say it in the client's shape."""
        self._state = "over"
        status = whole_number(event.headers.get(":status", "")) or 0
        problem = Problem("too_large", f"the body is longer than {self._runtime.config.max_body} bytes", "body")
        if status != problem.http_status:
            problem = Problem("unavailable", "the gateway could not take this request; send it again", status=status)
        return [*self._finish(wait=False, status=status), self._reply(problem)]

    def _on_finished(self, event: Finished) -> list[Action]:
        self._state = "over"
        problem = event.problem or Problem(
            "unavailable", "no backend could be reached; try again shortly", retry_after=2)
        reply = self._reply(problem)
        return [msgspec.structs.replace(reply, headers={**reply.headers, names.ATTEMPTS: str(event.attempts)})]

    def _on_closed(self) -> list[Action]:
        """The client left before any response: whatever was reserved can be released."""
        state, self._state = self._state, "over"
        return self._finish(wait=False, status=0) if state in ("reserving", "waiting") else []

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
        headers = {**JSON, **self._told()}
        if problem.retry_after is not None:
            headers["retry-after"] = str(problem.retry_after)
        if problem.should_retry is not None:
            headers["x-should-retry"] = "true" if problem.should_retry else "false"
        return Reply(problem.http_status, headers, self._schema.render_error(problem, self._rid))
