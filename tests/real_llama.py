"""Tests of the real llama.cpp are left out, with the reason, where the machine cannot load it."""

from __future__ import annotations

import pytest

from extproc.demo import llama_server

LACKS = llama_server.missing()
needs_llama = pytest.mark.skipif(bool(LACKS), reason=LACKS)
