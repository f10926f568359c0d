"""A store behind TLS that lets in one user with just the documented rights; a listener that speaks TLS for it."""

from __future__ import annotations

import asyncio
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import trustme

from extproc.ledger.access import OPERATOR, acl
from extproc.ledger.address import parse
from extproc.ledger.link import Link
from tests.contract.ledger_servers import Server
from tests.free_ports import free_port

PASSWORD = "s3cret/with@every:thing#"
ENCODED = "s3cret%2Fwith%40every%3Athing%23"


class Relay:
    """A TLS listener in front of a server that speaks none: the embedded server is built without it."""

    def __init__(self, context: ssl.SSLContext, url: str) -> None:
        self._context, self._target, self.port = context, parse(url), 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    async def _run(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context) as server:
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._over.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to = self._target
        other, back = await (asyncio.open_unix_connection(to.path) if to.path
                             else asyncio.open_connection(to.host, to.port))
        ways = [asyncio.ensure_future(_pump(reader, back)), asyncio.ensure_future(_pump(other, writer))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in (writer, back):
            end.transport.abort()
            with suppress(ConnectionError, ssl.SSLError):
                await end.wait_closed()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


class Secure:
    """A store behind TLS with a user of its own. `ca`: the file of who signed its certificate; `other`: of nobody."""

    def __init__(self, kind: str, folder: Path, rights: tuple[str, ...] = OPERATOR) -> None:
        authority, stranger = trustme.CA(), trustme.CA()
        self.ca, self.other = folder / "ca.pem", folder / "other.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        stranger.cert_pem.write_to_path(str(self.other))
        certificate = authority.issue_cert("127.0.0.1")
        # In the server's settings, so that it has the user again when it is started again.
        user = ["--user", "gateway", *acl("gateway", rights, password=PASSWORD).split()[4:]]
        self._relay: Relay | None = None
        if kind == "redis":
            self.port = free_port()
            key, chain = folder / "key.pem", folder / "chain.pem"
            certificate.private_key_pem.write_to_path(str(key))
            certificate.cert_chain_pems[0].write_to_path(str(chain))
            self.server = Server(kind, *user, "--tls-port", str(self.port), "--tls-cert-file", str(chain), "--tls-key-file",
                                 str(key), "--tls-ca-cert-file", str(self.ca), "--tls-auth-clients", "no")
        else:
            self.server = Server(kind, *user)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
            self._relay = Relay(context, self.server.url)
            self.port = self._relay.port

    def tell(self, *words: str) -> Any:
        """Send one command as the server's owner."""
        return asyncio.run(tell(self.server.url, *words))

    def url(self, user: str = f"gateway:{ENCODED}@", query: str | None = None) -> str:
        return f"rediss://{user}127.0.0.1:{self.port}/0{f'?ca={self.ca}' if query is None else query}"

    def remove(self) -> None:
        if self._relay is not None:
            self._relay.stop()
        self.server.remove()


async def tell(url: str, *words: Any) -> Any:
    link = Link(url, connect_timeout=2, call_timeout=5)
    try:
        return await link.call(words)
    finally:
        await link.close()
