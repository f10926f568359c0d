"""The file that tells the workers what local servers said of themselves, beside the configuration they read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from extproc.runtime import Detected

FILE = "detected.json"
_DECODER = msgspec.json.Decoder(dict[str, Detected])


def write(folder: Path, detected: Mapping[str, Detected]) -> None:
    """Put the file beside the configuration that the workers read, whole or not at all."""
    temporary = folder / f".{FILE}.new"
    temporary.write_bytes(msgspec.json.encode(detected))
    temporary.rename(folder / FILE)


def read(config: Path) -> dict[str, Detected]:
    """What was written beside a configuration; nothing when no local server was asked."""
    path = config.with_name(FILE)
    return _DECODER.decode(path.read_bytes()) if path.is_file() else {}
