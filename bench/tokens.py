"""How far the token estimates are from what providers reported in recorded traffic.

    python -m bench.tokens [FOLDER] [-v]    FOLDER: recordings, .json (default: tests/data/recorded) or VCR .yaml

Compared are requests whose tokens stand in the request. Left out, and told, are documents, audio, images behind an
address, server tools, history kept by the provider and hidden reasoning sent back. Requests with images are shown
apart, and so are OpenAI's Responses: in March 2025 they cost some 215 tokens more with tools than since September 2025.
An answer is compared when all of its tokens are visible text.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from extproc.core.conversation import Conversation, Document, Foreign, Image
from extproc.core.errors import RequestError
from extproc.schemas import CLIENTS
from extproc.tokens import counter, family_of, upper_bound, warm
from extproc.tokens.images import size_of

RECORDED = Path(__file__).parent.parent / "tests" / "data" / "recorded"
CHATS = ("/chat/completions", "/messages", "/responses")
LARGE = 200
"""Requests below are listed apart: a few tokens of template are a large part of them."""


class Recording(NamedTuple):
    """One exchange: the client schema's name, the request, and the answer's body, parsed if it was one JSON."""

    source: str
    schema: str
    request: dict[str, Any]
    answer: Any


class Sample(NamedTuple):
    """An estimate beside what the provider reported."""

    source: str
    family: str
    estimate: int
    reported: int

    @property
    def error(self) -> float:
        """Relative error; positive when the estimate is too high."""
        return self.estimate / self.reported - 1


def recordings(folder: Path) -> Iterator[Recording]:
    """Every exchange below a folder whose path a client schema serves."""
    for path in sorted(folder.rglob("*.json")):
        data = json.loads(path.read_text("utf-8"))
        if isinstance(data, dict) and "schema" in data and isinstance(data.get("request"), dict):
            yield Recording(path.stem, data["schema"], data["request"], _parsed(data.get("body")))
    for path in sorted(folder.rglob("*.yaml")):
        data = YAML(typ="safe").load(path.read_text("utf-8"))
        for i, exchange in enumerate((data or {}).get("interactions") or ()):
            found = _from_vcr(f"{path.parent.name}/{path.stem}#{i}", exchange)
            if found is not None:
                yield found


def _from_vcr(source: str, exchange: dict[str, Any]) -> Recording | None:
    request, response = exchange.get("request") or {}, exchange.get("response") or {}
    url = str(request.get("uri") or request.get("url") or "").partition("?")[0]
    for counting in ("/count_tokens", "/input_tokens"):
        url = url.removesuffix(counting)
    schema = next((s.name for s in CLIENTS.values() if s.path.endswith(CHATS) and url.endswith(s.path)), None)
    body = _body(request)
    if schema is None or not isinstance(body, dict):
        return None
    return Recording(source, schema, body, _body(response))


def _body(side: dict[str, Any]) -> Any:
    if side.get("parsed_body") is not None:
        return side["parsed_body"]
    body = side.get("body")
    return _parsed(body.get("string") if isinstance(body, dict) else body)


def _parsed(body: Any) -> Any:
    if isinstance(body, bytes):
        body = body.decode("utf-8", "replace")
    if isinstance(body, str) and body.lstrip().startswith("{"):
        try:
            return json.loads(body)
        except ValueError:
            return body
    return body


def usage(answer: Any) -> dict[str, Any]:
    """The usage object of an answer, whole or streamed; later reports of a stream win."""
    if isinstance(answer, dict):
        return answer.get("usage") or {k: v for k, v in answer.items() if k == "input_tokens"}
    found: dict[str, Any] = {}
    for line in str(answer or "").splitlines():
        if line.startswith("data:") and '"usage"' in line:
            event = _parsed(line[5:].strip())
            for holder in (event, event.get("message"), event.get("response")) if isinstance(event, dict) else ():
                new = holder.get("usage") if isinstance(holder, dict) else None
                found |= {k: v for k, v in (new or {}).items() if v is not None}
    return found


def reported_input(tokens: dict[str, Any]) -> int:
    """All input tokens, cached ones included, in either provider's spelling."""
    if "prompt_tokens" in tokens:
        return tokens["prompt_tokens"] or 0
    cached = (tokens.get("cache_read_input_tokens") or 0) + (tokens.get("cache_creation_input_tokens") or 0)
    return (tokens.get("input_tokens") or 0) + cached


def obstacle(conversation: Conversation, request: dict[str, Any]) -> str | None:
    """Why the tokens of a request are not all in it, or None."""
    parts = [part for message in conversation.messages for part in message.parts]
    foreign = any(tool.foreign is not None for tool in conversation.tools)
    if foreign or request.keys() & {"mcp_servers", "web_search_options"}:
        return "server tools"
    if any(isinstance(part, Document) and part.text is None for part in parts):
        return "documents"
    if any(isinstance(part, Image) and size_of(part) is None for part in parts):
        return "images behind an address"
    if any(isinstance(part, Foreign) for part in parts):
        return "audio and other provider parts"
    if request.get("previous_response_id") or request.get("conversation"):
        return "history kept by the provider"
    if "encrypted_content" in json.dumps(request.get("input") or ""):
        return "hidden reasoning sent back"
    return None


def visible(answer: Any) -> str | None:
    """The text of a whole answer that is nothing but text, else None."""
    if not isinstance(answer, dict):
        return None
    if answer.get("choices"):
        message = answer["choices"][0].get("message") or {}
        hidden = message.get("tool_calls") or message.get("reasoning") or message.get("reasoning_content")
        return message.get("content") if not hidden and isinstance(message.get("content"), str) else None
    content = answer.get("content")
    if isinstance(content, list) and content and all(part.get("type") == "text" for part in content):
        return "".join(part["text"] for part in content)
    return None


def reported_output(tokens: dict[str, Any]) -> int:
    """Output tokens without reasoning."""
    details = tokens.get("completion_tokens_details") or {}
    total = tokens.get("completion_tokens", tokens.get("output_tokens")) or 0
    return total - (details.get("reasoning_tokens") or 0) if not details.get("audio_tokens") else 0


class Report:
    """The samples of a run and what was left out of it."""

    def __init__(self) -> None:
        self.inputs: list[Sample] = []
        self.outputs: list[Sample] = []
        self.left_out: Tally[str] = Tally()
        self.bodies: list[tuple[int, int]] = []

    def add(self, recording: Recording) -> None:
        """Count one exchange, or note why not."""
        tokens = usage(recording.answer)
        expected = reported_input(tokens)
        if not expected:
            self.left_out["no usage reported"] += 1
            return
        body = json.dumps({"max_tokens": 1, **recording.request}).encode()
        try:
            conversation = CLIENTS[recording.schema].parse_request(body)
        except RequestError:
            self.left_out["refused by our parser"] += 1
            return
        why = obstacle(conversation, recording.request)
        if why is not None:
            self.left_out[why] += 1
            return
        count = counter(conversation.model)
        responses = "responses" in recording.schema
        family = f"responses/{count.family.name}" if responses else count.family.name
        has_image = any(isinstance(part, Image) for message in conversation.messages for part in message.parts)
        estimate = count.request(conversation, responses=responses)
        assert upper_bound(body) >= estimate or has_image, recording.source
        self.inputs.append(Sample(recording.source, f"{family} + images" if has_image else family, estimate, expected))
        if not has_image:
            self.bodies.append((len(body), expected))
        text, said = visible(recording.answer), reported_output(tokens)
        if text and said:
            self.outputs.append(Sample(recording.source, family, count.answer(text), said))


def table(title: str, samples: Iterable[Sample]) -> None:
    """Print one line per family: errors as a share of what was reported."""
    by_family: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_family[sample.family].append(sample)
    print(f"\n{title}\n{'family':<28}{'n':>4}{'median':>9}{'mean abs':>10}{'p90 abs':>9}{'total':>8}")
    for family, group in sorted(by_family.items()):
        errors = sorted(abs(sample.error) for sample in group)
        p90 = errors[min(len(errors) - 1, int(len(errors) * 0.9))]
        ratio = sum(s.estimate for s in group) / sum(s.reported for s in group)
        print(f"{family:<28}{len(group):>4}{statistics.median(s.error for s in group):>+9.1%}"
              f"{statistics.mean(errors):>10.1%}{p90:>9.1%}{ratio:>8.3f}")


def speed() -> None:
    """Print microseconds per 1,000 tokens of our own source code, and of the worst text known."""
    root = Path(__file__).parent.parent / "extproc"
    code = "".join(path.read_text("utf-8") for path in sorted(root.rglob("*.py")))
    ideographs = "".join(chr(0x4E00 + i * 7919 % 20_000) for i in range(len(code)))
    print("\nspeed, microseconds per 1,000 tokens (code; rare Chinese, without spaces)")
    for model in ("gpt-4o", "gpt-4", "qwen3", "qwen3.6"):
        warm(model)
        count = counter(model)
        costs: list[float] = []
        for text in (code, ideographs):
            began = time.perf_counter()
            tokens = count.text(text)
            costs.append((time.perf_counter() - began) / tokens * 1e9)
        print(f"  {family_of(model).encoding:<8}{costs[0]:>8.0f}{costs[1]:>8.0f}")


def main(arguments: list[str]) -> None:
    """Compare and print."""
    verbose = "-v" in arguments
    folders = [Path(a) for a in arguments if a != "-v"] or [RECORDED]
    report = Report()
    for recording in recordings(folders[0]):
        report.add(recording)
    table(f"input, {LARGE} tokens and more", (s for s in report.inputs if s.reported >= LARGE))
    table(f"input, under {LARGE} tokens", (s for s in report.inputs if s.reported < LARGE))
    table("output, visible text of 20 tokens and more", (s for s in report.outputs if s.reported >= 20))
    print("\nleft out:", ", ".join(f"{n} {why}" for why, n in report.left_out.most_common()) or "none")
    if report.bodies:
        per = sum(size for size, _ in report.bodies) / sum(n for _, n in report.bodies)
        print(f"body bytes per reported token: {per:.2f}")
    if verbose:
        for sample in sorted((*report.inputs, *report.outputs), key=lambda s: (s.family, s.source)):
            numbers = f"{sample.estimate:>7}{sample.reported:>7}{sample.error:>+8.1%}"
            print(f"{sample.family:<20}{numbers}  {sample.source[:90]}")
    speed()


if __name__ == "__main__":
    main(sys.argv[1:])
