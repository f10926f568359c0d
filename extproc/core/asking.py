"""What a request asks of budgets and limits, from its body to the grant: plan, refusal, exact count, chain."""

from __future__ import annotations

import msgspec

from extproc.core import charging
from extproc.core.admission import Identity, Plan, plan_for, priced, resolved
from extproc.core.bound import Bound, bound_of, output_of
from extproc.core.conversation import Conversation
from extproc.core.errors import Problem
from extproc.core.events import Admission, Carried, Reserved
from extproc.core.routing.flow import Decision
from extproc.runtime import Chain, Runtime
from extproc.tokens import TEMPLATE_CEILING

GONE = Problem("unavailable", "the reservation of this request is gone; send it again")
DENIED = Problem("unavailable", "the ledger cannot be reached, and budgets are in force; try again shortly",
                 retry_after=2, should_retry=True)


class Asking(msgspec.Struct, frozen=True):
    """What is kept of a request until money for it is granted. `weighed`: its prompt was counted exactly."""

    who: Identity
    chain: Chain
    model: str
    conversation: Conversation
    bound: Bound
    tokens: int
    plan: Plan
    weighed: bool = False


def asked(runtime: Runtime, decision: Decision, who: Admission, conversation: Conversation, body: bytes,
          tokens: int) -> Asking | None:
    """What a decided request asks for; None where there are no budgets and no limits.

    `tokens`: the estimate of its input that rate limits take. A count of tokens costs nothing, so its price need not
    be known.

    Raises:
        RequestError: no price is known, or the request could use more than can be counted.
    """
    if not runtime.has_money:
        return None
    identity = Identity(who.org, who.team, who.project, who.user, who.key)
    chain = decision.chain
    bound = bound_of(conversation, body, runtime.config.money.server_tool_uses)
    if conversation.task == "count":
        tokens = 0
    else:
        chain = priced(runtime, chain, decision.model, conversation, bound.models)
    plan = plan_for(runtime, identity, chain, decision.model, bound, output_of(conversation), tokens)
    return Asking(identity, chain, decision.model, conversation, bound, tokens, plan)


def exact_model(runtime: Runtime, asking: Asking, event: Reserved) -> str | None:
    """The model to count the prompt by, where an exact count may show that a refused request fits; else None."""
    if event.code != "BUDGET" or asking.weighed or asking.bound.passes:
        return None
    return charging.exact_model(resolved(runtime, asking.chain.backends, asking.model))


def weighed(runtime: Runtime, asking: Asking, tokens: int) -> Asking:
    """The same with the prompt's exact count as its bound."""
    bound = msgspec.structs.replace(
        asking.bound, tokens=min(asking.bound.tokens, tokens + tokens // 20 + TEMPLATE_CEILING))
    plan = plan_for(runtime, asking.who, asking.chain, asking.model, bound, output_of(asking.conversation),
                    asking.tokens)
    return msgspec.structs.replace(asking, bound=bound, plan=plan, weighed=True)


def granted(runtime: Runtime, asking: Asking, event: Reserved, carried: Carried) -> tuple[Chain, Carried]:
    """The chain that was granted, and the decision with what the attempts must know of the grant."""
    assert event.grant is not None
    chain = asking.plan.chains[event.grant.option - 1]
    if event.skipped:
        chain = runtime.part(chain, list(chain.backends[event.skipped:]))
    return chain, msgspec.structs.replace(
        carried, ask=event.ask, taken=event.taken, bound=asking.bound, granted=event.grant.max_tokens)


def holds(event: Reserved) -> bool:
    """Whether the store holds something for the request after this answer, or may: it can have executed a reservation
    whose answer was lost. What backends share is asked for last: where that is refused the reservation stands."""
    return event.code in ("OK", "DENIED", "unavailable") or (
        event.code == "LIMIT" and event.grant is not None and event.grant.option > 0)
