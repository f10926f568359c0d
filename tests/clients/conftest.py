"""One real gateway (Envoy, store, two workers) before all stand-ins; clients must give a key it knows."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.backends import BACKENDS
from tests.clients.providers import Aimock, StandIn
from tests.data_plane.conftest import Plane, running

KEY = "sk-ant-key-of-the-client-000"

CONFIG = """\
listen: 127.0.0.1:{port}
admin: 127.0.0.1:{admin}
envoy_admin: 127.0.0.1:{envoy_admin}
workers: 2
redis: {store}
auth: {{mode: keys, keys: [{{name: agent, sha256: "{extra}"}}]}}
failover: {{first_event_timeout: 60s, answer_timeout: 60s, silence_timeout: 60s}}
"""


@dataclass
class Gateway:
    """The running gateway and the stand-in of each backend."""

    plane: Plane
    stand_ins: dict[str, StandIn]

    @property
    def base(self) -> str:
        """What a client is pointed at."""
        return f"http://127.0.0.1:{self.plane.port}"

    def log_sizes(self) -> dict[str, int]:
        """How long each log is now."""
        return {str(path): path.stat().st_size for path in self._logs()}

    def log_growth(self, sizes: dict[str, int]) -> dict[str, str]:
        """What each log holds past those sizes."""
        return {path.name: path.read_bytes()[sizes.get(str(path), 0) :].decode() for path in self._logs()}

    def _logs(self) -> list[Path]:
        return [self.plane.log, *sorted((self.plane.state / "gateway-0" / "logs").iterdir())]


def _template(ports: dict[str, int]) -> str:
    entries = [f"  {b.name}: {{{b.entry.replace('PORT', str(ports[b.name]))}}}" for b in BACKENDS]
    chains = [f"  {b.name}: [{b.name}/{b.model}]" for b in BACKENDS]
    chains += [f"  {name}: [{BACKENDS[0].name}/{BACKENDS[0].model}]" for name in ("cloud", "local")]  # the smart flow's
    text = "\n".join(["backends:", *entries, "chains:", *chains, ""])
    return CONFIG + text.replace("{", "{{").replace("}", "}}")


@pytest.fixture(scope="session")
def gateway():
    """Stand-ins and gateway, once for all tests."""
    with contextlib.ExitStack() as stack:
        stand_ins: dict[str, StandIn] = {}
        for backend in BACKENDS:
            stand_ins[backend.name] = backend.stand_in()
            stack.callback(stand_ins[backend.name].close)
        template = _template({name: stand_in.port for name, stand_in in stand_ins.items()})
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        anyone = next(iter(stand_ins.values()))
        yield Gateway(stack.enter_context(running(anyone, digest, template)), stand_ins)


@pytest.fixture(scope="session")
def aimock():
    """A stand-in that clients reach without a gateway."""
    with contextlib.closing(Aimock()) as stand_in:
        yield stand_in
