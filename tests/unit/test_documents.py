"""What the documents show is what the gateway takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from extproc.config import parse
from extproc.runtime import Runtime

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
BACKENDS = """
backends:
  claude: {dialect: anthropic, base_url: "https://api.anthropic.com", api_key: k, location: cloud}
chains: {cloud: [claude/m], local: [claude/m]}
"""
BLOCKS = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in (ROOT / "README.md", ROOT / "docs" / "budgets.md")
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", path.read_text("utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_configuration_of_a_document(block: str) -> None:
    """Every YAML block is a valid configuration, or the part of one."""
    text = block if "backends:" in block else BACKENDS + block
    Runtime(parse(text, "document", ROOT, ENVIRONMENT), lambda _provider, _model: (None, None))


def test_readme_is_short() -> None:
    """The README stays within what is read."""
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120
