"""What the ledger and the log keep of a request and its attempts."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from extproc.core import events as ev
from extproc.core.errors import Problem
from extproc.core.usage import with_passes
from extproc.ledger.base import RollupRow, Settlement
from extproc.money.amounts import Account
from extproc.pb import usage_pb2 as pb
from extproc.server.facts import facts_message
from extproc.server.treasurer import true_up

_OUTCOME = {"exact": pb.Attempt.EXACT, "estimated": pb.Attempt.ESTIMATED, "failed": pb.Attempt.FAILED}


def admission_blob(action: ev.Reserve, rid: str) -> bytes:
    """The record of a request that is admitted."""
    admission = action.admission
    return pb.Admission(
        request_id=rid, org=admission.org, team=admission.team, project=admission.project,
        user=admission.user, key=admission.key, route=admission.route, reason=admission.reason,
        model_asked=admission.model, client_schema=admission.schema, stream=admission.stream,
        admitted_unix_ms=action.admitted, facts=facts_message(action.decision, action.shadow_of),
    ).SerializeToString()


def begin_blob(action: ev.Begin) -> bytes:
    """The record of an attempt of which nothing more is heard."""
    return pb.Attempt(number=action.attempt, backend=action.backend, model_used=action.model,
                      outcome=pb.Attempt.EXPIRED).SerializeToString()


def withdrawal(carried: ev.Carried, action: ev.Begin) -> Settlement:
    """The end of an attempt that was announced, perhaps, and not made."""
    blob = pb.Attempt(number=action.attempt, backend=action.backend, model_used=action.model,
                      outcome=pb.Attempt.FAILED, cost_nano_usd=0).SerializeToString()
    return Settlement(blob, 0, 0, 0, rollup_row(carried, action.backend, action.model), carried.rid)


def settlement(carried: ev.Carried, end: ev.End) -> Settlement:
    """The record of an attempt that ended, and what it adds to the sums."""
    tokens = end.tokens
    blob = pb.Attempt(
        number=end.attempt, backend=end.backend, model_used=end.model, outcome=_OUTCOME[end.outcome],
        status=end.status, error_type=end.problem.kind if end.problem else "",
        tokens=pb.Tokens(input=tokens.input, cache_read=tokens.cache_read, cache_write_5m=tokens.cache_write_5m,
                         cache_write_1h=tokens.cache_write_1h, output=tokens.output, reasoning=tokens.reasoning),
        cost_nano_usd=end.cost, duration_ms=max(end.duration_ms, 0), time_to_first_token_ms=end.first_event_ms,
        error_body=msgspec.json.encode(end.problem).decode() if end.problem else "",
        model_reported=end.reported_model, finish_reason=end.finish_reason, price_version=end.price_version,
        counterfactual_nano_usd=end.counterfactual, service_tier=end.terms.tier or "", region=end.terms.region or "",
        web_searches=end.terms.searches,
    ).SerializeToString()
    row = rollup_row(carried, end.backend, end.model)
    return Settlement(blob, end.cost, *with_passes(tokens, end.terms), row, carried.rid)


def rollup_row(carried: ev.Carried, backend: str, model: str) -> RollupRow:
    """The row of the daily sums that an attempt counts in."""
    who = carried.admission
    return RollupRow(_day(carried.admitted // 86_400_000), who.team, who.project, who.user, who.key, model, backend)


@lru_cache(maxsize=8)
def _day(number: int) -> str:
    """The UTC day of a number of days since the epoch."""
    return datetime.fromtimestamp(number * 86_400, UTC).strftime("%Y-%m-%d")


def account(carried: ev.Carried, end: ev.End) -> Account | None:
    """What the end brings along where money is at stake: the budgets, and the limits corrected to what was used."""
    if carried.ask is None:
        return None
    used = sum(with_passes(end.tokens, end.terms))
    ups = tuple(true_up(limit, used) for limit in carried.ask.limits) if end.final else ()
    return Account(carried.ask.budgets, ups)


def finished(attempts: list[bytes]) -> ev.Finished:
    """What the attempts of a request came to: the last error that one of them told."""
    problem = None
    for blob in attempts:
        attempt = pb.Attempt.FromString(blob)
        if attempt.error_body:
            problem = msgspec.json.decode(attempt.error_body, type=Problem)
    return ev.Finished(problem, len(attempts))


def log_line(carried: ev.Carried, end: ev.End) -> str:
    """The canonical log line of an attempt: facts only, never a prompt or a key."""
    who, tokens = carried.admission, end.tokens
    return msgspec.json.encode({
        "event": "attempt", "request_id": carried.rid, "attempt": end.attempt, "route": who.route,
        "reason": who.reason, "backend": end.backend, "model": end.model, "model_asked": who.model,
        "schema": who.schema, "stream": who.stream, "team": who.team, "key": who.key, "outcome": end.outcome,
        "status": end.status, "error": end.problem.kind if end.problem else None, "tokens": tokens,
        "cost_nano_usd": end.cost, "duration_ms": end.duration_ms, "first_event_ms": end.first_event_ms,
        "finish_reason": end.finish_reason,
    }).decode()
