"""One ext_proc stream: codec around a stage, its ledger and telemetry actions handed to the performer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

from extproc import names
from extproc.core import events as ev
from extproc.core.attempt_stage import AttemptStage
from extproc.core.request_stage import RequestStage
from extproc.server import codec
from extproc.server.performer import Performer, new_id
from extproc.server.seam import Channel


class Stage(Protocol):
    """Events in, actions out."""

    def receive(self, event: ev.Event, now: int) -> list[ev.Action]:
        """Take one event; never raises for what a client or a provider sent."""
        ...


class StageStream:
    """A stream of the seam around one stage."""

    __slots__ = ("_channel", "_closed", "_performer", "_rid", "_stage", "_trace", "finished", "last",
                 "pings")

    def __init__(self, stage: Stage, rid: str, performer: Performer, channel: Channel, trace: str) -> None:
        self._stage, self._rid, self._performer, self._channel = stage, rid, performer, channel
        self._trace = trace
        self._closed = False
        self.finished = False
        self.last, self.pings = 0.0, 0

    @property
    def stage(self) -> Stage:
        """The stage inside, for the silence watch."""
        return self._stage

    def feed(self, message: bytes) -> list[bytes]:
        """Take one ProcessingRequest."""
        event = codec.event_of(message)
        self.last, self.pings = time.monotonic(), 0
        if event is None:
            return []
        if isinstance(event, ev.RequestHeaders) and isinstance(self._stage, AttemptStage):
            self._trace = event.headers.get("traceparent", self._trace)
        return self._apply(event)

    def closed(self) -> None:
        """The peer is gone or we ended it."""
        self._closed = True
        self._performer.forget(self)
        self._apply(ev.Closed())

    def hear(self, event: ev.Event) -> None:
        """Take an event that no message caused: a ledger's answer, silence."""
        answers = self._apply(event)
        if not self._closed:
            self._channel.reply(answers)

    def _apply(self, event: ev.Event) -> list[bytes]:
        answers: list[bytes] = []
        for action in self._stage.receive(event, time.time_ns() // 1_000_000):
            match action:
                case ev.Emit() | ev.Proceed() | ev.Reply():
                    answers += codec.answers_of(action)
                case ev.Leave():
                    self.finished = True
                case _:
                    self._performer.perform(action, self, self._channel)
        return answers

    @property
    def rid(self) -> str:
        """The request id this stream works for."""
        if isinstance(self._stage, AttemptStage):
            return self._stage.carried.rid if self._stage.carried else ""
        return self._rid

    @property
    def trace(self) -> str:
        """The traceparent that spans of this stream hang under."""
        return self._trace


def opener(performer: Performer):
    """Make the seam's `open` for a worker."""

    def open_stream(metadata: Mapping[str, str], channel: Channel) -> StageStream:
        rid, stage = "", None
        if metadata.get(names.STAGE) == "attempt":
            stage = AttemptStage(performer.runtimes.of)
        else:
            rid = new_id()
            runtime = performer.runtimes.current
            stage = RequestStage(runtime, rid, performer.board.view(runtime))
        stream = StageStream(stage, rid, performer, channel, metadata.get("traceparent", ""))
        performer.watch(stream)
        return stream

    return open_stream
