"""Ports for servers of the tests: free, chosen by no other run, and below those that outgoing connections get."""

from __future__ import annotations

import random

from extproc.up import ports

_BUS = 10_000
"""A node of a cluster talks to the others so much above its own port."""


def free_port() -> int:
    """A port that stays this process's own."""
    found = ports.free(f"127.0.0.1:{random.randrange(12_000, 31_000)}", False, ())
    assert found is not None
    return _port_of(found)


def free_cluster_port() -> int:
    """A port for a node of a cluster, whose bus finds its own port free as well."""
    while True:
        found = ports.free(f"127.0.0.1:{random.randrange(12_000, 21_000)}", False, ())
        assert found is not None
        bus = f"127.0.0.1:{_port_of(found) + _BUS}"
        if ports.free(bus, False, (), tries=1) is not None:
            return _port_of(found)


def _port_of(address: str) -> int:
    return int(address.rpartition(":")[2])
