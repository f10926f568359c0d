"""A request from its body to its decision: what is asked of the store first, and what is carried to the attempts."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

import msgspec

from extproc.core.conversation import Conversation
from extproc.core.endpoints import Endpoint
from extproc.core.events import Judged, Learn, Mirror, Recall
from extproc.core.identity import Caller
from extproc.core.routing import sessions, signals
from extproc.core.routing.complexity import Complexity
from extproc.core.routing.flow import Decision, may_be_smart
from extproc.core.routing.learning import cell_of
from extproc.core.routing.objective import prior_for
from extproc.core.routing.outcomes import Asked, reask, signature_of
from extproc.core.routing.sessions import Memory
from extproc.core.routing.signals import Signals
from extproc.core.routing.view import View
from extproc.names import ROUTE, SHADOW
from extproc.runtime import Runtime
from extproc.wire.json_splice import TopLevel

_CUT = ("complete", "probe")
"""Phases whose answers are meant to be cut."""
_LEARNT = ("main", "subagent", "chat", "plan", "review")
"""Phases in which a person's next word tells of the answer before."""
_PASSED_ON = ("content-type", "authorization", "x-api-key", "anthropic-version", "anthropic-beta", "user-agent",
              "x-extproc-project", "accept")
"""Headers of a request that its shadow has too."""


class Parsed(msgspec.Struct, frozen=True):
    """A request that is understood and not decided yet. `shadow`: the id of the one it is a copy of."""

    conversation: Conversation
    body: bytes
    signals: Signals
    resumes: bool
    shadow: str


def parsed(endpoint: Endpoint, conversation: Conversation, body: bytes, headers: Mapping[str, str],
           caller: Caller) -> Parsed:
    """Take the facts of a request. Raises RequestError for a field that is given twice."""
    TopLevel(body)  # it would be read one way here and another way by a provider
    # A key that belongs to a project spends for it alone, whatever a header says.
    project = caller.project or unicodedata.normalize("NFC", headers.get("x-extproc-project", ""))[:64]
    facts = signals.extract(conversation, len(body), endpoint.route, headers, caller.key, caller.team,
                            endpoint=endpoint.schema, org=caller.org, project=project, user=caller.user)
    shadow = headers.get(SHADOW, "")[:32]
    session = sessions.session_of(facts, conversation)
    facts = msgspec.structs.replace(facts, session="" if shadow else session.id)
    return Parsed(conversation, body, facts, session.resumes and shadow == "", shadow)


def recall(runtime: Runtime, known: Parsed) -> Recall | None:
    """What must be asked of the store before the decision; None: nothing."""
    facts = known.signals
    if not (facts.session and known.resumes and runtime.config.routing.smart.sessions.sticky):
        return None
    return Recall(facts.org, facts.session) if may_be_smart(runtime, facts) else None


def informed(known: Parsed, view: View, memory: Memory | None, now: int) -> Signals:
    """The signals with what only the gateway knows; rules may ask for it."""
    facts = known.signals
    warm = 0 if memory is None else memory.warm(now)
    if not view.rules and not view.binding:
        return msgspec.structs.replace(facts, warm_tokens=warm) if warm else facts
    down = frozenset(backend.partition("/")[0] for backend in view.knowledge.health.down(now))
    return msgspec.structs.replace(facts, warm_tokens=warm, down=down,
                                   budget_left=view.knowledge.left.get((facts.org, facts.team, facts.key)))


def lesson(memory: Memory | None, facts: Signals) -> list[Learn]:
    """What this request tells of the answer before it in its session."""
    if memory is None or not memory.cell or facts.phase not in _LEARNT:
        return []
    asked = Asked(memory.cell, memory.backend, memory.prior, memory.signature, memory.asked, memory.settled)
    found = reask(asked, facts.ask, facts.turns, in_tool_loop=facts.in_tool_loop)
    if found is None:
        return []
    return [Learn(facts.org, facts.key, memory.cell, memory.backend, memory.prior / 1000, found)]


def judged(decision: Decision, known: Parsed, facts: Signals, view: View, memory: Memory | None, *,
           read: bool = False) -> Judged | None:
    """What is learnt from this request's answer; None: nothing. `read`: of a request that was not weighed the text may
    be read all the same, for what its client may say of the answer."""
    valued = decision.valued
    if valued is not None:
        # What an outage brought where it would not have gone would make a weak backend look good at hard work.
        made = _judged(decision, view, valued.rated, valued.cell, facts)
        made = msgspec.structs.replace(made, complex=valued.complex, counts=not decision.forced)
    elif facts.task == "chat" and (known.shadow or read):
        rated = view.rate(facts)
        made = _judged(decision, view, rated, cell_of(rated.task, facts.input_tokens, facts.tools), facts)
        made = msgspec.structs.replace(made, shadow=bool(known.shadow), counts=bool(known.shadow))
    elif facts.session and decision.kept:
        made = Judged(counts=False)
    else:
        return None
    if not (facts.session and decision.kept):
        return made
    return msgspec.structs.replace(
        made, session=facts.session, signature=signature_of(facts.ask), turns=facts.turns, memory=memory,
        escalates=decision.escalates)


def tellable(runtime: Runtime, decision: Decision, known: Parsed) -> bool:
    """Whether a client's word on the answer could be learnt, were the text read: it is of a backend that smart routing
    chooses, and answers are kept for as long as it takes to judge them."""
    facts = known.signals
    if decision.valued is not None or known.shadow or facts.task != "chat" or not facts.ask:
        return False
    if not runtime.config.explain.keep:
        return False
    smart, first = runtime.config.routing.smart, decision.chain.backends[0].id
    return any(first == backend.id for name in (smart.simple, smart.complex) if (chain := runtime.chains.get(name))
               for backend in chain.backends)


def _judged(decision: Decision, view: View, rated: Complexity, cell: str, facts: Signals) -> Judged:
    smart = view.routing.smart
    promised = {one.id: round(1000 * rated.chance(prior_for(smart, one), cloud=one.location == "cloud"))
                for one in decision.chain.backends}
    return Judged(cell, rated.task, promised, facts.max_tokens,
                  facts.phase in _CUT or facts.fills or facts.task == "completion")


def mirror(decision: Decision, known: Parsed, headers: Mapping[str, str], rid: str) -> list[Mirror]:
    """The copy of a request that another chain is asked, where a rule wants one."""
    chain = decision.picked.shadow if decision.picked is not None else ""
    if not chain or known.shadow or chain == decision.route or known.signals.task == "count":
        return []
    kept = {name: headers[name] for name in _PASSED_ON if name in headers}
    path = headers.get(":path", "")
    return [Mirror(chain, path, {**kept, ROUTE: chain, SHADOW: rid}, known.body)]


