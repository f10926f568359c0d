"""`extproc route`: the decision for a request in words."""

from __future__ import annotations

from collections.abc import Mapping

from extproc.core import signals
from extproc.core.complexity import score
from extproc.core.endpoints import find
from extproc.core.errors import RequestError
from extproc.core.routing import decide
from extproc.runtime import Runtime
from extproc.schemas import CLIENTS


def explain(runtime: Runtime, path: str, headers: Mapping[str, str], body: bytes) -> str:
    """The chain a request would take, the reason, the facts behind it. Raises RequestError like the gateway."""
    headers = {":method": "POST", ":path": path, **headers}
    endpoint = find(headers)
    if endpoint.kind != "ask":
        raise RequestError(f"{path} is no path of a request; known: {', '.join(s.path for s in CLIENTS.values())}")
    conversation = CLIENTS[endpoint.schema].parse_request(body)
    facts = signals.extract(conversation, len(body), endpoint.route, headers, "", "default")
    decision = decide(runtime, facts, conversation, score, client=endpoint.schema)
    rated = score(facts)
    lines = [
        f"route       {decision.route}",
        f"reason      {decision.reason}",
        f"chain       {' > '.join(b.id for b in decision.chain.backends)}",
        *[f"dropped     {entry}" for entry in decision.dropped],
        f"complexity  {rated.score} ({rated.why}); threshold {runtime.config.routing.smart.threshold}",
        f"signals     path={facts.path} model={facts.model} stream={facts.stream} tokens~{facts.input_tokens} "
        f"turns={facts.turns} tools={facts.tools} needs={','.join(sorted(facts.needs)) or '-'}",
    ]
    return "\n".join(lines)
