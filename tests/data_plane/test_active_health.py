"""Active health on the real Envoy: a chain passes over a local server that is away, and comes back to it."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.data_plane import upstream as up
from tests.data_plane.conftest import CONFIG, Plane, running
from tests.free_ports import free_port

TEMPLATE = CONFIG.split("backends:")[0] + """\
backends:
  cloud0: {{schema: openai, base_url: "http://127.0.0.1:{up}/cloud0/v1", api_key: k, location: cloud}}
  cloud1: {{schema: openai, base_url: "http://127.0.0.1:{up}/cloud1/v1", api_key: k, location: cloud}}
  box: {{schema: openai, base_url: "http://127.0.0.1:{box}/v1", location: local, health: {{every: 1s, path: /alive}}}}
  port: {{schema: openai, base_url: "http://127.0.0.1:{box}/v1", location: local, health: {{every: 1s}}}}
chains:
  first: [box/m, cloud0/m]
  last: [cloud0/m, box/m]
  three: [box/m, cloud0/m, cloud1/m]
  alone: [box/m]
  port: [port/m, cloud0/m]
models: {{auto: first}}
failover: {{first_event_timeout: 1s, answer_timeout: 2s, silence_timeout: 1s}}
"""
AT_MOST = 15.0
"""Seconds in which a check every second must have told: two silent ones of a second each, and slow machines."""


class Box:
    """A model server that can be ended, started again on its port, and made to say how it is."""

    def __init__(self) -> None:
        self.port = free_port()
        self.alive = 200
        self.asked: list[str] = []
        self._server: http.server.ThreadingHTTPServer | None = None

    def start(self) -> None:
        box = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if box.alive == 0:
                    time.sleep(3)
                self._say(box.alive or 200, b"{}")

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                box.asked.append(self.path)
                self._say(200, up.openai_json("from the box").chunks[0])

            def _say(self, status: int, body: bytes) -> None:
                try:
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except ConnectionError:
                    self.close_connection = True  # a check that gave up

            def log_message(self, *args: object) -> None:
                """Stay quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@contextlib.contextmanager
def gateway() -> Iterator[tuple[Plane, Box]]:
    """A gateway whose local server is away, and Envoy knows."""
    upstream, box = up.Upstream(), Box()
    with running(upstream, template=TEMPLATE.replace("{box}", str(box.port))) as plane:
        clouds(plane)
        for chain in ("first", "port"):
            wait(lambda chain=chain: served(plane, chain, attempts="1") == "cloud0")
        assert not healthy(plane)
        yield plane, box
        box.stop()
    upstream.stop()


def clouds(plane: Plane) -> None:
    """Forget what was; both clouds answer."""
    plane.upstream.reset()
    for name in ("cloud0", "cloud1"):
        plane.upstream.always[name] = up.openai_json(f"from {name}")


@pytest.fixture(scope="module")
def _away() -> Iterator[tuple[Plane, Box]]:
    with gateway() as world:
        yield world


@pytest.fixture
def away(_away: tuple[Plane, Box]) -> tuple[Plane, Box]:
    """A local server that never comes."""
    clouds(_away[0])
    return _away


@pytest.fixture
def comes() -> Iterator[tuple[Plane, Box]]:
    """A gateway of its own for a test in which the local server comes: the workers remember what they saw of it."""
    with gateway() as world:
        yield world


def served(plane: Plane, chain: str, attempts: str | None = None) -> str:
    """The backend that answers; "" when it was not the attempt of that number."""
    answer = plane.chat(chain)
    return answer.headers["x-extproc-backend"] if attempts in (None, answer.headers["x-extproc-attempts"]) else ""


def healthy(plane: Plane) -> bool:
    """Whether Envoy takes any of the local server's clusters for healthy."""
    return any(plane.envoy_stats("^cluster.(box|port)/m.*membership_healthy").values())


def wait(done: Callable[[], bool]) -> float:
    """Wait until it is so; returns the seconds it took."""
    start = time.monotonic()
    while not done():
        assert time.monotonic() - start < AT_MOST
        time.sleep(0.05)
    return time.monotonic() - start


@pytest.mark.parametrize("chain", ["first", "port", "three"])
def test_passed_over(away: tuple[Plane, Box], chain: str) -> None:
    """With the local server away the next backend has the first attempt: nothing begins or is charged at the local one."""
    plane, box = away
    answer = plane.chat(chain)
    assert (answer.status, answer.headers["x-extproc-backend"], answer.headers["x-extproc-attempts"]) == (
        200, "cloud0", "1")
    assert [(a.number, a.backend) for a in plane.record(answer).attempts] == [(1, "cloud0")]
    assert box.asked == []


def test_no_delay(away: tuple[Plane, Box]) -> None:
    """Passing over takes no measurable time: the chain is as fast as one without the local server."""
    plane, _ = away

    def quickest(chain: str) -> float:
        times: list[float] = []
        for _ in range(15):
            start = time.monotonic()
            assert plane.chat(chain).status == 200
            times.append(time.monotonic() - start)
        return min(times)

    assert quickest("first") < quickest("last") + 0.02


def test_back_again(comes: tuple[Plane, Box]) -> None:
    """When the local server is there again the chain begins with it, within some checks; and leaves it when it dies."""
    plane, box = comes
    box.start()
    assert wait(lambda: served(plane, "first", "1") == "box") < AT_MOST
    assert wait(lambda: served(plane, "port", "1") == "port") < AT_MOST
    assert json.loads(plane.chat("alone").body)["choices"][0]["message"]["content"] == "from the box"
    box.stop()
    wait(lambda: not healthy(plane))
    assert served(plane, "first", "1") == "cloud0"


def test_no_request_fails_when_it_dies(comes: tuple[Plane, Box]) -> None:
    """Until Envoy knows, a refused connection moves on to the next backend within the request."""
    plane, box = comes
    box.start()
    wait(lambda: served(plane, "first", "1") == "box")
    box.stop()
    answers = [plane.chat("first") for _ in range(20)]
    assert {(a.status, a.headers["x-extproc-backend"]) for a in answers} == {(200, "cloud0")}


@pytest.mark.parametrize(("alive", "backend"), [(503, "cloud0"), (0, "cloud0"), (404, "box"), (401, "box")])
def test_what_it_says(comes: tuple[Plane, Box], alive: int, backend: str) -> None:
    """A server that says 503 (it loads its model) or nothing is passed over; any other answer means it is there."""
    plane, box = comes
    box.start()
    wait(lambda: served(plane, "first", "1") == "box")
    wait(lambda: served(plane, "port", "1") == "port")
    box.alive = alive
    if backend != "box":
        wait(lambda: served(plane, "first", "1") == backend)
    else:
        time.sleep(2.5)
        assert served(plane, "first", "1") == "box"
    assert served(plane, "port", "1") == "port"  # of this one only the port is asked for


def test_behind_a_failing_cloud(away: tuple[Plane, Box]) -> None:
    """Behind a cloud that fails, a local server that is away leaves the cloud's own error to be told."""
    plane, _ = away
    plane.upstream.always["cloud0"] = up.error(503, "cloud is down")
    answer = plane.chat("last")
    assert answer.status == 503
    assert not answer.json["error"]["message"].startswith("no backend could be reached")
    assert {seen.backend for seen in plane.upstream.seen} == {"cloud0"}


def test_those_behind_are_tried(away: tuple[Plane, Box]) -> None:
    """Behind one that was passed over the others are tried in their order. Envoy's attempts count on where one was
    passed over, so that it may ask the next one twice (docs/adr/0007); workers that know move it behind."""
    plane, _ = away
    plane.upstream.always["cloud0"] = up.error(503)
    answer = plane.chat("three")
    assert (answer.status, answer.headers["x-extproc-backend"]) == (200, "cloud1")
    assert [seen.backend for seen in plane.upstream.seen] in (
        ["cloud0", "cloud0", "cloud1"], ["cloud0", "cloud1"], ["cloud1"])


def test_alone(away: tuple[Plane, Box]) -> None:
    """A chain of the one that is away says at once that nobody is there."""
    plane, _ = away
    start = time.monotonic()
    answer = plane.chat("alone")
    assert (answer.status, answer.json["error"]["message"]) == (
        503, "no backend could be reached of box; try again shortly")
    assert time.monotonic() - start < 1


def test_the_cloud_is_not_checked(away: tuple[Plane, Box]) -> None:
    """Nothing is sent to a cloud but requests."""
    plane, _ = away
    stats = plane.envoy_stats("cluster.*health_check.attempt")
    assert [name for name in stats if "cloud" in name] == []
    assert any("box/m" in name for name in stats)
    assert [asked for asked in plane.upstream.asked if asked.backend.startswith("cloud")] == []
