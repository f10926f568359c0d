"""What requests usually turn out to be: output tokens by kind of task, and how fast each backend writes. Pure."""

from __future__ import annotations

USUAL = {
    "complete": 30, "generate": 700, "edit": 500, "review": 500, "debug": 600, "explain": 500, "design": 900,
    "math": 500, "knowledge": 250, "chat": 200,
}
"""Output tokens before anything is measured. 30 and 200 are the means of a coding and of a conversation service in
Azure's public trace of 2023 (28 and 211); the others are guesses that the first few answers correct."""
OTHER = 300
TRUST = 10
"""How many answers the table above counts for."""
MEMORY = 200
"""Answers after which older ones begin to be forgotten."""
LEAST = 5
"""Answers of a backend before its speed is told."""
MOST_BACKENDS = 256
_LONGEST = 1 << 20
_SLOWEST_US = 10_000_000


class Mean:
    """A running mean in whole thousandths that forgets slowly."""

    __slots__ = ("count", "milli")

    def __init__(self, start: int = 0, trust: int = 0) -> None:
        """Begin at `start` as if it had been seen `trust` times."""
        self.milli, self.count = start * 1000, trust

    def add(self, value: int) -> None:
        """Take one more value."""
        self.count = min(self.count + 1, MEMORY)
        self.milli += (value * 1000 - self.milli) // self.count

    @property
    def value(self) -> int:
        """The mean, rounded."""
        return (self.milli + 500) // 1000


class Habits:
    """Of one worker; bounded."""

    def __init__(self) -> None:
        self._outputs = {task: Mean(usual, TRUST) for task, usual in USUAL.items()}
        self._speeds: dict[str, Mean] = {}

    def output(self, task: str, max_tokens: int | None = None) -> int:
        """Expected output tokens of a task, at most what the request allows."""
        mean = self._outputs.get(task)
        expected = OTHER if mean is None else mean.value
        return expected if max_tokens is None else min(expected, max(max_tokens, 0))

    def latency_ms(self, backend: str, first_event_ms: int | None, output_tokens: int) -> int | None:
        """Expected ms until the answer's end; None where too little was measured."""
        speed = self._speeds.get(backend)
        if first_event_ms is None or speed is None or speed.count < LEAST:
            return None
        return first_event_ms + speed.value * output_tokens // 1000

    def note(self, task: str, backend: str, output_tokens: int | None, first_event_ms: int | None = None,
             duration_ms: int = 0) -> None:
        """Take an answer that ended well; `first_event_ms` None: it was not streamed, and tells no speed."""
        if output_tokens is None or not 0 < output_tokens <= _LONGEST:
            return
        if (mean := self._outputs.get(task)) is not None:
            mean.add(output_tokens)
        if first_event_ms is None or duration_ms < first_event_ms:
            return
        if backend not in self._speeds and len(self._speeds) >= MOST_BACKENDS:
            return
        took_us = (duration_ms - first_event_ms) * 1000 // output_tokens
        self._speeds.setdefault(backend, Mean()).add(min(took_us, _SLOWEST_US))
