"""What a routing decision costs: thread CPU in microseconds by part and by length of the ask, against other routers.

    python -m bench.decision [--count 400] [--litellm PYTHON]

The worker it measures is in the midst of its day: 20 rules, outcomes of the last minute, learnt beliefs, a session.
`whole` is what a request pays: signals, what the session and the answer before it tell, and the decision. The
explanation is made only for those requests whose explanation is kept (`explain.per_second`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from extproc.config import parse
from extproc.core import choosing
from extproc.core.conversation import Conversation
from extproc.core.pricing import Price, Rate, per_million
from extproc.core.routing import sessions, signals
from extproc.core.routing.endings import Outcome
from extproc.core.routing.flow import Decision, decide
from extproc.core.routing.pins import pick
from extproc.core.routing.sessions import Memory, stay
from extproc.core.routing.value import Weighing, by_value
from extproc.core.routing.view import Knowledge, View
from extproc.runtime import Runtime
from extproc.schemas import CLIENTS
from extproc.textmodel import load

SCORER = Path(__file__).parent / "routing" / "litellm_scores.py"
SIZES = (150, 500, 1_700, 100_000, 1_000_000)
ASK = "Please refactor `load_user(id: int)` so that it returns None when the user is missing, and update src/app.py.\n"
HOSTILE = {
    "a tag, again and again": "<system-reminder>", "white space": " ", "ideographs": "漢",
    "one word": "a", "emoji": "\N{GRINNING FACE}",
}
NOW = 1_790_000_000_000
RID = "0192f0c1a2b37c4d8e5f60718293a4b5"
RULES = "\n".join(
    f"    - {{when: {{team: team-{number}, tokens: '> {1000 * number}'}}, route: local, reason: rule {number}}}"
    for number in range(20))
CONFIG = f"""
backends:
  gpt: {{schema: openai, base_url: https://api.openai.com/v1, location: cloud, api_key: sk-openai}}
  claude: {{schema: anthropic, base_url: https://api.anthropic.com, location: cloud, api_key: sk-ant}}
  qwen: {{schema: openai, base_url: http://127.0.0.1:11434/v1, location: local, capacity: 4,
         models: {{q: {{usd_per_million_input: 0.1, usd_per_million_output: 0.2}}}}}}
chains:
  cloud: [claude/c, gpt/g, qwen/q]
  local: [qwen/q, gpt/g]
models: {{auto: smart}}
routing:
  rules:
{RULES}
"""
BACKENDS = ("claude/c", "gpt/g", "qwen/q")
MEMORY = Memory("qwen/q", "q", "local", NOW - 30_000, 2_000, False, 3, 0, "edit.s.n")


class Day:
    """A worker in the midst of its day, and one request to it."""

    def __init__(self, ask: str) -> None:
        price = Price(Rate(per_million(3)), Rate(per_million(15)), version="bench")
        self.runtime = Runtime(parse(CONFIG, "bench", Path()), lambda _p, _m: (price, 10_000_000))
        learning = self.runtime.config.learning
        self.view = View(self.runtime.config.routing, Knowledge(learning))
        self._live()
        self.headers = {":method": "POST", ":path": "/v1/chat/completions", "content-type": "application/json",
                        "user-agent": "OpenAI/Python 3.54.0", "x-extproc-session": "one of many"}
        body = json.dumps({"model": "auto", "messages": [
            {"role": "system", "content": "You help with code."}, {"role": "user", "content": ask}]})
        self.body = body.encode()
        self.conversation: Conversation = CLIENTS["openai"].parse_request(self.body)
        self.signals = self.extracted()
        self.known = choosing.Parsed(self.conversation, self.body, self.signals, True, "")

    def _live(self) -> None:
        """Four buckets of outcomes of three backends, and a week of what was learnt of their cells."""
        known, day = self.view.knowledge, NOW // 86_400_000
        for backend in BACKENDS:
            for back in range(40):
                known.health.note(Outcome(backend, backend.partition("/")[0], "ok", 900, 200 + 9 * back),
                                  NOW - 1000 * back)
                known.habits.note("edit", backend, 400, 200, 4_000)
            for ago in range(7):
                known.learned("default").note("edit.s.n", backend, ago % 3 > 0, 3, day - ago, prior=0.8)

    def extracted(self) -> signals.Signals:
        """The signals of the request."""
        return signals.extract(self.conversation, len(self.body), "plain", self.headers, "key", "core",
                               endpoint="openai")

    def session(self) -> object:
        """Whose conversation it is, and whether it may move."""
        return sessions.session_of(self.signals, self.conversation), stay(
            MEMORY, NOW, in_tool_loop=False, chains=("local", "cloud"), complex_chain="cloud",
            price=self.runtime.chains["cloud"].backends[0].price)

    def order(self) -> object:
        """Both chains in the order of their health."""
        known = self.view.knowledge
        return [known.health.order(self.runtime.chains[name].backends, NOW, RID, known.busy.total())
                for name in ("local", "cloud")]

    def value(self) -> object:
        """What both chains are worth, without the text model."""
        chains = self.runtime.chains
        return by_value(self._read, self.runtime.config.routing.smart, Weighing(
            self.signals, chains["local"].backends, chains["cloud"].backends, MEMORY, "", NOW, RID))

    def prepare(self) -> None:
        """Read the text once, so that parts can be measured without it."""
        rated = self.view.rate(self.signals)
        self._read = View(self.runtime.config.routing, self.view.knowledge, rate=lambda _: rated)
        self._decision = self.decided()

    def decided(self) -> Decision:
        """The decision alone."""
        return decide(self.runtime, self.signals, self.conversation, self.view, now=NOW, rid=RID, memory=MEMORY)

    def explained(self) -> object:
        """The explanation of a decision."""
        return self._decision.explanation

    def whole(self) -> Decision:
        """From the parsed request to the decision."""
        facts = self.extracted()
        sessions.session_of(facts, self.conversation)
        facts = choosing.informed(self.known, self.view, MEMORY, NOW)
        choosing.lesson(MEMORY, facts)
        return decide(self.runtime, facts, self.conversation, self.view, now=NOW, rid=RID, memory=MEMORY)


def parts(day: Day) -> dict[str, Callable[[], object]]:
    """What is measured, by its name."""
    day.prepare()
    ask = day.signals.ask
    return {
        "signals": day.extracted,
        "20 rules": lambda: pick(day.runtime, day.view.binding, day.view.rules, day.signals, RID),
        "text model": lambda: load().read(ask),
        "value": day.value,
        "health order": day.order,
        "session": day.session,
        "explanation": day.explained,
        "decide()": day.decided,
        "whole": day.whole,
    }


def timed(call: Callable[[], object], count: int) -> tuple[float, float]:
    """Thread CPU of one call in microseconds: median and 99th percentile. A slow call is measured less often."""
    took: list[float] = []
    ends = time.monotonic() + 4
    for turn in range(count + 20):
        began = time.thread_time_ns()
        call()
        if turn >= 20:
            took.append((time.thread_time_ns() - began) / 1000)
        if time.monotonic() > ends and len(took) >= 20:
            break
    took.sort()
    return took[len(took) // 2], took[min(len(took) * 99 // 100, len(took) - 1)]


def litellm(python: str, sizes: tuple[int, ...]) -> dict[int, float]:
    """The median of LiteLLM's heuristic router, by length."""
    asked = json.dumps([[], [(ASK * 10_000)[:size] for size in sizes]])
    done = subprocess.run([python, str(SCORER)], input=asked, capture_output=True, text=True, check=True, timeout=600)
    answer = json.loads(done.stdout[done.stdout.index('{"heuristic"'):])
    return dict(zip(sizes, answer["heuristic"]["us"], strict=True))


def _row(name: str, cells: list[str]) -> str:
    return f"{name:<26}" + "".join(f"{cell:>17}" for cell in cells)


def _pair(figures: tuple[float, float]) -> str:
    return f"{figures[0]:,.0f} ({figures[1]:,.0f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400, help="calls of each part")
    parser.add_argument("--litellm", help="a Python interpreter that has litellm installed")
    options = parser.parse_args()
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for size in SIZES:
        for name, call in parts(Day((ASK * 10_000)[:size])).items():
            found.setdefault(name, {})[size] = timed(call, options.count)
    print("thread CPU, us: median (99th percentile), by characters of the ask")
    print(_row("", [f"{size:,}" for size in SIZES]))
    for name, figures in found.items():
        print(_row(name, [_pair(figures[size]) for size in SIZES]))
    for name in ("decide()", "whole"):
        print(_row(f"{name} / text model", [
            f"{found[name][size][0] / found['text model'][size][0]:.2f}" for size in SIZES]))
    if options.litellm:
        theirs = litellm(options.litellm, SIZES[:4])
        print(_row("LiteLLM heuristic", [f"{theirs[size]:,.0f}" if size in theirs else "" for size in SIZES]))
        print(_row("LiteLLM / decide()", [
            f"{theirs[size] / found['decide()'][size][0]:.1f}" if size in theirs else "" for size in SIZES]))
    print("\none million characters of                signals       text model            whole")
    for name, piece in HOSTILE.items():
        made = parts(Day((piece * 1_000_000)[:1_000_000]))
        cells = [_pair(timed(made[part], options.count // 4)) for part in ("signals", "text model", "whole")]
        print(_row(name, cells))


if __name__ == "__main__":
    main()
