"""Which part of a Markdown text that is still arriving is shown as code."""

from __future__ import annotations

import re

_BACKTICKS = re.compile(r"(`+)")
_WHITE = " \t\r\n"
_LINE_PREFIX = " \t\r>*+-.0123456789"
"""What may stand before a fence: indentation, and the marks of quotes and lists."""


class CodeMarks:
    """Follows Markdown's backticks through a text: fenced blocks, and code spans within a line."""

    def __init__(self) -> None:
        self._fence = 0             # backticks of the open block, 0 for none
        self._on_fence_line = False
        self._closing = False       # a closing fence was read, if its line holds nothing else
        self._span = 0              # backticks of the open code span
        self._line_blank = True     # nothing but indentation, quote and list marks so far
        self._run = 0               # backticks read that may go on

    def track(self, text: str) -> None:
        """Take note of more text."""
        if "`" not in text:
            self._plain(text)
            return
        for part in _BACKTICKS.split(text):
            if part.startswith("`"):
                self._run += len(part)
            elif part:
                self._plain(part)

    def inside(self) -> bool:
        """Would a character that comes now be shown as code?"""
        self._end_run()
        return bool(self._fence or self._span)

    def _plain(self, text: str) -> None:
        if self._run:
            self._end_run()
        cut = text.rfind("\n")
        if self._closing and text[:text.find("\n") if cut >= 0 else None].strip(_WHITE):
            self._closing = False
        if cut >= 0:
            if self._closing:
                self._fence, self._closing = 0, False
            self._on_fence_line, self._span = False, 0
            self._line_blank = not text[cut + 1:].strip(_LINE_PREFIX)
        elif self._line_blank:
            self._line_blank = not text.strip(_LINE_PREFIX)

    def _end_run(self) -> None:
        run, self._run = self._run, 0
        if not run:
            return
        if self._fence and self._on_fence_line:  # more backticks on that line: it was a code span
            self._span, self._fence, self._on_fence_line = self._fence, 0, False
        if self._fence:
            self._closing = self._line_blank and run >= self._fence
        elif self._span:
            self._span = 0 if run == self._span else self._span
        elif self._line_blank and run >= 3:
            self._fence, self._on_fence_line = run, True
        else:
            self._span = run
        self._line_blank = False
