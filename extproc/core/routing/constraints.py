"""What a backend must be able to do to serve a request at all: tools, images, schemas, context."""

from __future__ import annotations

import msgspec

from extproc.core.conversation import Conversation
from extproc.core.errors import RequestError
from extproc.core.routing.signals import Signals
from extproc.dialects import DIALECTS
from extproc.runtime import ANY, Backend, Chain, Runtime
from extproc.schemas.base import Target

CAUTION = 160
"""Per cent of the estimated tokens that a prompt may really have (code and non-English text have more per byte)."""
UNTOLD_CONTEXT = 4096
"""What Ollama loads on a machine with under 24 GiB of video memory when nobody says more."""


class Request(msgspec.Struct, frozen=True):
    """What candidates are held against. `client`: the schema of the client; `model`: what it named."""

    signals: Signals
    conversation: Conversation
    client: str
    model: str


class Able(msgspec.Struct, frozen=True):
    """A chain without the backends that cannot serve a request. `dropped`: those, each with why."""

    chain: Chain
    dropped: tuple[str, ...] = ()


def able(runtime: Runtime, request: Request, chain: Chain) -> Able | tuple[str, ...]:
    """Drop the candidates that cannot serve this request; when none is left, return why each cannot."""
    keep: list[Backend] = []
    dropped: list[str] = []
    for backend in chain.backends:
        actual = runtime.resolve(backend.name, request.model) if backend.model == ANY else backend
        if why := cannot(actual, request):
            dropped.append(f"{actual.id}: {why}")
        else:
            keep.append(backend)
    if not keep:
        return tuple(dropped)
    return Able(chain if len(keep) == len(chain.backends) else runtime.part(chain, keep), tuple(dropped))


def unable(route: str, dropped: tuple[str, ...]) -> RequestError:
    """The client's error when nobody can serve its request."""
    too_long = all("tokens exceed" in d for d in dropped)
    return RequestError(f"no backend of {route} can serve this request: {'; '.join(dropped)}",
                        kind="context_length" if too_long else "invalid_request")


def counts(backend: Backend, request: Request) -> bool:
    """Whether the provider itself counts tokens."""
    return DIALECTS[backend.dialect].wire(request.client) is not None


def cannot(backend: Backend, request: Request) -> str | None:
    """Why a backend cannot serve a request; None: it can."""
    signals, dialect = request.signals, DIALECTS[backend.dialect]
    if lacking := sorted(signals.needs & backend.lacks):
        return f"lacks {', '.join(lacking)}"
    target = Target(backend.model, backend.max_output, backend.default_max_tokens, backend.context)
    if refused := dialect.refuses(request.conversation, request.client, target):
        return f"cannot do {', '.join(refused)}"
    context = backend.context
    if dialect.silent_truncation:
        # It would cut the prompt and say nothing, so it gets only what fits by the cautious estimate.
        sure, context = signals.input_tokens * CAUTION // 100, context or UNTOLD_CONTEXT
        if sure > context:
            return f"up to {sure} tokens exceed its context of {context}, and it would cut them silently"
    if context is not None and signals.input_tokens > context:
        return f"about {signals.input_tokens} tokens exceed its context of {context}"
    return None
