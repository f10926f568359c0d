"""Spans reach a real OTLP receiver: Envoy's ingress, the request and the attempt, in one trace."""

from __future__ import annotations

import asyncio
import threading

from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

from tests.data_plane import upstream as up
from tests.data_plane.conftest import running
from tests.free_ports import free_port

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_one_trace(_upstream):
    """The client's trace holds ingress, `extproc request` with the reason, and one `chat` span per attempt."""
    port = free_port()
    settings = OtelTapHttpProtobufReceiverSettings(http_port=port, listen_on_all_interfaces=False)
    async with OtelTapHttpProtobufReceiver(settings) as receiver:
        spans: list = []

        async def collect() -> None:
            async for span in receiver.stream_traces():
                spans.append(span)

        task = asyncio.create_task(collect())
        extra = f'telemetry: {{otlp_endpoint: "http://127.0.0.1:{port}"}}'
        seen = threading.Event()
        work = asyncio.create_task(asyncio.to_thread(_exercise, _upstream, extra, seen))
        for _ in range(300):
            mine = [s for s in spans if s.trace_id.hex() == TRACE]
            if _whole(mine):
                break
            await asyncio.sleep(0.1)
        seen.set()
        await work
        task.cancel()
    names = [s.name for s in mine]
    assert _whole(mine), names
    assert any("ingress" in name for name in names)
    request = next(s for s in mine if s.name == "extproc request")
    told = {a.key: a.value.string_value for a in request.attributes}
    assert told["extproc.reason"] == "pinned by model oa"
    good = next(s for s in mine if s.name.startswith("chat") and s.status.code != 2)
    usage = {a.key: a.value.int_value for a in good.attributes}
    assert (usage["gen_ai.usage.input_tokens"], usage["gen_ai.usage.output_tokens"]) == (20, 7)


def _whole(spans: list) -> bool:
    """Whether both attempts, the request and the ingress are there, and ours hang under spans of Envoy."""
    ids = {s.span_id for s in spans}
    ours = [s for s in spans if s.name in ("chat gpt-5-mini", "extproc request")]
    return len(ours) == 3 and all(s.parent_span_id in ids for s in ours) and any("ingress" in s.name for s in spans)


def _exercise(_upstream, extra: str, seen: threading.Event) -> None:
    with running(_upstream, extra) as plane:
        _upstream.reset()
        _upstream.script("oa0", up.error(503))
        _upstream.script("oa1", up.openai_json())
        answer = plane.chat("oa", headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
        assert answer.status == 200
        assert all("traceparent" not in s.headers for s in _upstream.seen)
        seen.wait(30)
