"""The compatibility table: nothing is lost in silence, and the document is what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.compatibility.probes import PROBES, Probe
from extproc.compatibility.table import find, table
from extproc.dialects import DIALECTS
from extproc.schemas import CLIENTS

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "compatibility.md"
CASES = [(client, probe) for client, probes in PROBES.items() for probe in probes]


@pytest.mark.parametrize(("client", "probe"), CASES, ids=[f"{client}-{probe.feature}" for client, probe in CASES])
def test_nothing_is_lost_in_silence(client: str, probe: Probe) -> None:
    """Every feature reaches every kind of backend, or is refused or named: `lost` does not happen."""
    assert {name: f for name, d in DIALECTS.items() if (f := find(client, probe, d)).fate == "lost"} == {}


def test_every_client_schema_is_in_the_table() -> None:
    """A schema that clients speak has its probes; the token count is answered by us where nobody else can."""
    assert set(PROBES) == set(CLIENTS) - {"count_tokens"}


def test_document_is_what_the_code_does() -> None:
    """docs/compatibility.md is current; `make docs` writes it."""
    assert DOCUMENT.read_text("utf-8") == table()
