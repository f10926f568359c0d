"""Addresses that gateways choose by themselves do not collide."""

from __future__ import annotations

import socket
import subprocess
import sys

from extproc.up import ports

CHOOSE = "import sys; from extproc.up import ports; print(ports.free(sys.argv[1], False, ()), flush=True); sys.stdin.read()"


def spare() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_gateways_choose_different_ports() -> None:
    """What one has chosen, and not taken yet, is not chosen by another; when it ends it is free again."""
    address = f"127.0.0.1:{spare()}"
    chosen: list[str] = []
    running: list[subprocess.Popen[str]] = []
    for _ in range(3):
        one = subprocess.Popen([sys.executable, "-c", CHOOSE, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True)
        running.append(one)
        assert one.stdout is not None
        chosen.append(one.stdout.readline().strip())
    try:
        assert chosen[0] == address
        assert len(set(chosen)) == 3
    finally:
        for one in running:
            one.communicate(timeout=10)
    assert ports.free(address, False, ()) == address


def test_an_explicit_address_is_taken_or_not() -> None:
    """An address that was given is never exchanged for another."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        assert ports.free(address, True, ()) is None
        other = ports.free(address, False, ())
        assert other not in (None, address)
    assert ports.free(address, True, ()) == address
    assert ports.free(address, True, (address,)) is None
