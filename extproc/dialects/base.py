"""What a dialect is: how one provider (or kind of server) departs from the schema it speaks.

A dialect is small data plus only the code that differs. It says in which schema a request leaves for the provider
(`wire`), makes a conversation fit what the provider can take (`fit`), and corrects the wire fields of the rendered
request (`adapt`). Adding one is one file in this folder and one line in `extproc/dialects/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec

from extproc.core.conversation import Conversation
from extproc.core.toolbox import Rules
from extproc.dialects.fim import template
from extproc.schemas import PROVIDERS
from extproc.schemas.base import Target

Fields = dict[str, Any]
Fim = Literal["suffix", "mistral", "template", "chat"]


class Notes(msgspec.Struct):
    """What became of a request on its way: names for the warning header."""

    dropped: list[str] = msgspec.field(default_factory=list[str])
    emulated: list[str] = msgspec.field(default_factory=list[str])


class Dialect:
    """A provider that speaks its schema as the schema says; subclasses say what differs."""

    name: ClassVar[str]
    schema: ClassVar[str] = "openai"
    """The provider schema that chats of other client schemas are translated to."""
    native: ClassVar[frozenset[str]] = frozenset()
    """Further client schemas whose requests the provider takes as they are (responses, embeddings, ...)."""
    verbatim: ClassVar[bool] = True
    """Whether a request in `schema` goes out with its bytes (only model and usage reporting change); False: its
    fields are adapted first."""
    paths: ClassVar[Mapping[str, str]] = {}
    """Provider schema -> path, where it is not the schema's own."""
    fim: ClassVar[Fim] = "chat"
    """How the middle is filled in: a `suffix` field of /v1/completions, Mistral's own route, a prompt built from the
    model's template for /v1/completions, or an instruction to a chat model."""
    tools: ClassVar[Rules] = Rules()
    repairs: ClassVar[bool] = False
    """Whether tool calls may leak as text and are repaired."""
    lacks: ClassVar[frozenset[str]] = frozenset()
    """Features (as in gateway.yaml) that no model of it has."""
    max_tokens_only: ClassVar[bool] = False
    """Whether max_completion_tokens is unknown to it."""
    silent_truncation: ClassVar[bool] = False
    """Whether a prompt over the context is cut without a word: such a backend gets only what surely fits."""
    hosts: ClassVar[tuple[str, ...]] = ()
    """Hosts of base_url that mean this dialect when gateway.yaml names none."""

    def wire(self, client: str) -> str | None:
        """The provider schema for a request of this client schema; None when the provider has none for it."""
        if client == self.schema or client in self.native:
            return client
        if client in ("completions", "fim"):
            return {"suffix": "completions", "template": "completions", "mistral": "fim"}.get(self.fim, self.schema)
        if client in ("embeddings", "count_tokens"):
            return None
        return self.schema

    def path(self, wire: str) -> str:
        """The request path below the base path."""
        return self.paths.get(wire) or PROVIDERS[wire].path

    def refuses(self, conversation: Conversation, client: str, target: Target) -> tuple[str, ...]:
        """Names of features in a request of this client schema that the provider cannot serve: no candidate then."""
        wire = self.wire(client)
        if wire is None:
            return (client,)
        cannot = self.cannot(conversation, target)
        fills = conversation.prompt is not None and conversation.prompt.suffix is not None
        if wire == "completions" and self.fim == "template" and fills:
            if template(target.model) is None:
                cannot = (*cannot, "suffix")
            return (*conversation.demands, *cannot)
        if wire == client:
            return cannot
        return (*conversation.demands, *PROVIDERS[wire].refuses(conversation), *cannot)

    def cannot(self, conversation: Conversation, target: Target) -> tuple[str, ...]:
        """Names of features that the provider lacks in any schema and that a request must not go without."""
        return ()

    def fit(self, conversation: Conversation, target: Target, notes: Notes) -> Conversation:
        """Change a conversation, before it is rendered, to what the provider can take. Tools are fitted already."""
        return conversation

    def adapt(self, fields: Fields, wire: str, target: Target, notes: Notes) -> None:
        """Correct the wire fields of a request in place; `wire` is the provider schema they are in."""

    def rewrites(self, model: str) -> bool:
        """Whether answers of this model are in a form that clients of the same schema do not know."""
        return False

    def credentials(self, api_key: str) -> dict[str, str]:
        """The headers that carry the provider's key."""
        return {"authorization": f"Bearer {api_key}"}


