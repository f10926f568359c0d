"""The configuration in force, with what local servers said of themselves, and the files that tell the workers both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from extproc.config import GatewayConfig, parse
from extproc.runtime import Detected, Runtime
from extproc.up import detected, recognize
from extproc.up.folders import replace


class Effective:
    """Starts from `text`, the words of the file `name` in `folder`, where `file:` secrets are; `take` changes it."""

    def __init__(self, run: Path, text: str, name: str, folder: Path, written: int) -> None:
        """`run`: where the workers' files go. `written`: when the file was, in ns since the epoch.

        Raises ConfigError.
        """
        self.text, self._name, self.folder, self._written = text, name, folder, written
        self.config = self.parse(text)
        self.path = run / "gateway.yaml"
        self.dialects: dict[str, str] = {}
        self._detected: Mapping[str, Detected] = {}
        self._recognizer = recognize.Recognizer()

    def parse(self, text: str) -> GatewayConfig:
        """What a changed file says. Raises ConfigError."""
        return parse(text, self._name, self.folder)

    async def take(self, text: str, config: GatewayConfig) -> None:
        """Put a parsed text in force."""
        if text != self.text:
            self._written = time.time_ns()
        self.text, self.config = text, config
        await self.write()

    async def write(self) -> None:
        """Ask the local servers what they are, and write what workers read."""
        self._detected = await self._recognizer.recognize(self.config)
        detected.write(self.path.parent, self._detected)
        runtime = self.compile()
        self.dialects = {name: runtime.dialect(name) for name in self.config.backends}
        # It may have providers' keys. The workers' budgets are as old as the file, or else a restart would put older
        # ones in force again.
        replace(self.path, self.text, self._written)

    async def heard_more(self) -> bool:
        """Whether a local server that did not answer before now tells what it speaks."""
        if len(self._detected) == len(recognize.unnamed(self.config)):
            return False
        return await self._recognizer.recognize(self.config, again=True) != self._detected

    def compile(self) -> Runtime:
        """The runtime of this configuration, without prices: Envoy needs none."""
        return Runtime(self.config, lambda _provider, _model: (None, None), self._detected)
