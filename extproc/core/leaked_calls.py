"""Reads the text of an answer for tool calls that the model's server did not take out of it.

Two ways of writing a call are read: the XML of Qwen3-Coder, with or without its outer tag, and the JSON of Hermes and
Qwen. A call counts only when the request had a tool of that name and the text is not shown as code; everything else
stays the text it was, to the byte. What comes out does not depend on how the text was cut into pieces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from extproc.core.conversation import Tool
from extproc.core.markdown import CodeMarks
from extproc.core.repair_arguments import from_object, from_parameters

HELD_LIMIT = 4 << 20
"""Characters a call may have while it is held back; beyond that it is text."""
GAP_LIMIT = 256
"""Characters of white space held before a call, or between a closing tag and the tag that proves it to be one."""
KEY_LIMIT = 256
"""Characters of a parameter's name."""
SLICE = 64 << 10
"""Characters read at a time, which bounds what a whole answer makes us copy."""
WHITE = " \t\r\n"
WRAP, UNWRAP = "<tool_call>", "</tool_call>"
FUNCTION, END_FUNCTION = "<function=", "</function>"
PARAMETER, END_PARAMETER = "<parameter=", "</parameter>"
_AFTER_PARAMETER = (PARAMETER, END_FUNCTION, UNWRAP, FUNCTION, WRAP)

_MARKER = re.compile(r"<(?:tool_call>|function=)")
_END_OF_VALUE = re.compile(r"</(?:parameter|function)>")
_END_OF_ANSWER = re.compile(r"</function>[ \t\r\n]*(?:</tool_call>[ \t\r\n]*)?")
_SPACE = re.compile(r"[ \t\r\n]*")
_BAD_IN_KEY = re.compile(r"[<\n]")
_IN_STRING = re.compile(r'["\\]')
_IN_OBJECT = re.compile(r'["{}]')
_WAIT = -1


class LeakedCall(msgspec.Struct, frozen=True):
    """A call that was found in text; `arguments` is the JSON text of an object."""

    name: str
    arguments: str


Piece = str | LeakedCall


class CallReader:
    """Text in, text and calls out. A step is a place in the grammar: it takes what it can, or waits for more."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self._tools = tools
        self._longest = max(map(len, tools), default=0)
        self._out: list[Piece] = []
        self._visible: list[str] = []
        self._code = CodeMarks()
        self._step: Callable[[str, int], int] = self._gap
        self._flowing = False               # nothing is held: a piece without "<" goes right through
        self._pending = ""                  # the end of the text that no step could take yet
        self._white = ""                    # white space that is dropped if it turns out to touch a call
        self._after_call = self._orphan = False
        self._held: list[str] = []          # the call being read, as it was written; empty when there is none
        self._size = 0
        self._name = self._key = ""
        self._pairs: list[tuple[str, str]] = []
        self._value: list[str] = []         # of the open parameter, or of the JSON object
        self._depth = 0
        self._in_string = False

    def passes(self, text: str) -> bool:
        """Whether nothing is held and no tag begins in this text: then it is taken, and stays what it is."""
        if self._flowing and "<" not in text:
            self._code.track(text)
            return True
        return False

    def read(self, text: str) -> list[Piece]:
        """What is certain after this text."""
        for start in range(0, len(text), SLICE):
            self._scan(self._pending + text[start:start + SLICE])
        return self._taken()

    def end(self, *, complete: bool) -> list[Piece]:
        """Let go of everything: as a call if it lacks only closing tags and the model stopped by itself (`complete`),
        else as text.

        Whatever comes between two texts begins another block, so no call and no code reaches over it.
        """
        if complete and self._lacks_only_closing_tags() and self._call(orphan=False):
            self._pending = ""
        if self._held:
            self._give_up()
        elif self._pending or not self._after_call:
            self._show(self._white)
        self._show(self._pending)
        self._pending = self._white = ""
        self._code = CodeMarks()
        self._step, self._flowing, self._after_call, self._orphan = self._gap, False, False, False
        return self._taken()

    # ------------------------------------------------------------------------ what comes out

    def _show(self, text: str) -> None:
        if text:
            self._code.track(text)
            self._visible.append(text)

    def _tell_text(self) -> None:
        if self._visible:
            self._out.append("".join(self._visible))
            self._visible = []

    def _taken(self) -> list[Piece]:
        self._tell_text()
        out, self._out = self._out, []
        return out

    # ------------------------------------------------------------------------ what is held

    def _scan(self, text: str) -> None:
        """Take as many steps as the text allows. A step returns where it came to, or that it must wait for more."""
        pos = 0
        while pos < len(text):
            end, held = len(text), self._held
            if held and self._size + end - pos > HELD_LIMIT:
                end = pos + HELD_LIMIT - self._size
            came = self._step(text if end == len(text) else text[:end], pos)
            if came == _WAIT and end == len(text):
                break
            if came == _WAIT:
                came = end
                self._hold(text[pos:end])
                self._give_up()
            elif held and self._held is held:
                self._hold(text[pos:came])
            pos = came
        self._pending = text[pos:]
        self._flowing = not self._pending and self._step == self._outside

    def _begin(self, text: str, step: Callable[[str, int], int]) -> None:
        self._held, self._size = [text], len(text)
        self._pairs, self._value = [], []
        self._white, self._step = "", step

    def _hold(self, text: str) -> None:
        _append(self._held, text)
        self._size += len(text)

    def _give_up(self, pos: int = 0) -> int:
        """What was held is text after all; what begins at `pos` may be something else."""
        held, self._held = self._held, []
        self._show("".join(held))
        self._step = self._outside
        return pos

    def _call(self, *, orphan: bool) -> bool:
        """Take the call that was read, if it is one; after it `orphan` closing tags may follow."""
        found = from_object("".join(self._value)) if self._step == self._after_object else (
            self._name, from_parameters(self._tools[self._name].parameters, self._pairs))
        if found is None or found[0] not in self._tools:
            return False
        self._tell_text()
        self._out.append(LeakedCall(*found))
        self._held = []
        self._step, self._after_call, self._orphan = self._gap, True, orphan
        self._code = CodeMarks()
        return True

    def _lacks_only_closing_tags(self) -> bool:
        rest = self._pending
        if self._step == self._in_value:
            if rest.startswith(END_PARAMETER):
                rest = rest[len(END_PARAMETER):].lstrip(WHITE)
            elif _END_OF_ANSWER.fullmatch(rest):
                rest = ""  # the value's own closing tag was forgotten
            else:
                return False
            self._end_value()
        if self._step == self._in_body and self._pairs:
            return END_FUNCTION.startswith(rest) or UNWRAP.startswith(rest)
        return self._step == self._after_object and UNWRAP.startswith(rest)

    # ------------------------------------------------------------------------ steps: where there is no call

    def _outside(self, text: str, pos: int) -> int:
        marker = _MARKER.search(text, pos)
        if marker is None:
            start = text.rfind("<", max(pos, len(text) - len(WRAP) + 1))
            if start < 0 or not (WRAP.startswith(text[start:]) or FUNCTION.startswith(text[start:])):
                start = len(text)
            self._show(text[pos:start])
            if start < len(text) and self._code.inside():
                self._show(text[start:])
                return len(text)
            return start if start > pos else _WAIT
        self._show(text[pos:marker.start()])
        if self._code.inside():
            self._show(marker.group())
        else:
            self._begin(marker.group(), self._opened if marker.group() == WRAP else self._in_name)
        return marker.end()

    def _gap(self, text: str, pos: int) -> int:
        """At the beginning of a text, or after a call: white space is held, for it is dropped beside a call."""
        end = _space(text, pos)
        if len(self._white) + end - pos > GAP_LIMIT:
            return self._leave_gap(pos)
        if end > pos:
            self._white += text[pos:end]
            return end
        tag = _tag(text, pos, (WRAP, FUNCTION, UNWRAP) if self._orphan else (WRAP, FUNCTION))
        if tag is None:
            return _WAIT
        if tag == UNWRAP:
            self._white, self._orphan = "", False
        elif tag:
            self._begin(self._white + tag, self._opened if tag == WRAP else self._in_name)
        else:
            return self._leave_gap(pos)
        return pos + len(tag)

    def _leave_gap(self, pos: int) -> int:
        self._show(self._white)
        self._white, self._step = "", self._outside
        return pos

    # ------------------------------------------------------------------------ steps: inside a call

    def _opened(self, text: str, pos: int) -> int:
        if (end := _space(text, pos)) > pos:
            return end
        tag = _tag(text, pos, (FUNCTION, "{"))
        if tag is None:
            return _WAIT
        if tag == FUNCTION:
            self._step = self._in_name
            return pos + len(tag)
        if tag:
            self._step, self._depth, self._in_string = self._in_object, 0, False
            return pos
        return self._give_up(pos)

    def _in_name(self, text: str, pos: int) -> int:
        end = text.find(">", pos, pos + self._longest + 1)
        if end < 0:
            begun = text[pos:pos + self._longest + 1]
            return _WAIT if any(name.startswith(begun) for name in self._tools) else self._give_up(pos)
        if text[pos:end] not in self._tools:
            return self._give_up(pos)
        self._name, self._step = text[pos:end], self._in_body
        return end + 1

    def _in_body(self, text: str, pos: int) -> int:
        if (end := _space(text, pos)) > pos:
            return end
        tag = _tag(text, pos, _AFTER_PARAMETER)
        if tag is None:
            return _WAIT
        if tag == PARAMETER:
            self._step = self._in_key
            return pos + len(tag)
        if tag == END_FUNCTION or (tag and self._pairs):
            if not self._call(orphan=tag == END_FUNCTION):
                return self._give_up(pos)
            return pos + len(tag) if tag in (END_FUNCTION, UNWRAP) else pos
        return self._give_up(pos)

    def _in_key(self, text: str, pos: int) -> int:
        end = text.find(">", pos, pos + KEY_LIMIT + 1)
        if _BAD_IN_KEY.search(text, pos, len(text) if end < 0 else end) or end == pos:
            return self._give_up(pos)
        if end < 0:
            return _WAIT if len(text) - pos <= KEY_LIMIT else self._give_up(pos)
        self._key, self._step = text[pos:end], self._in_value
        return end + 1

    def _in_value(self, text: str, pos: int) -> int:
        """Only a closing tag that another tag follows ends a value: code may hold anything else."""
        found = _END_OF_VALUE.search(text, pos)
        if found is None:
            start = text.rfind("<", max(pos, len(text) - len(END_PARAMETER) + 1))
            if start < 0 or not (END_PARAMETER.startswith(text[start:]) or END_FUNCTION.startswith(text[start:])):
                start = len(text)
        else:
            start = found.start()
        if start > pos:
            _append(self._value, text[pos:start])
            return start
        if found is None:
            return _WAIT
        ended = self._parameter_ended(text, found.end()) if found.group() == END_PARAMETER else _next_call(text, pos)
        if ended is None:
            return _WAIT
        if not ended:
            _append(self._value, found.group())
            return found.end()
        self._end_value()
        return found.end() if found.group() == END_PARAMETER else pos

    def _parameter_ended(self, text: str, pos: int) -> bool | None:
        end = _space(text, pos)
        if end - pos > GAP_LIMIT:
            return False
        tag = _tag(text, end, _AFTER_PARAMETER)
        return None if tag is None else bool(tag)

    def _end_value(self) -> None:
        self._pairs.append((self._key, "".join(self._value)))
        self._value, self._step = [], self._in_body

    def _in_object(self, text: str, pos: int) -> int:
        """To the brace that closes the object, heeding strings: a string may hold any tag."""
        at = pos
        while found := (_IN_STRING if self._in_string else _IN_OBJECT).search(text, at):
            at = found.end()
            match found.group():
                case "\\" if at == len(text):
                    at -= 1
                    _append(self._value, text[pos:at])
                    return at if at > pos else _WAIT
                case "\\":
                    at += 1
                case '"':
                    self._in_string = not self._in_string
                case "{":
                    self._depth += 1
                case _:
                    self._depth -= 1
                    if self._depth == 0:
                        _append(self._value, text[pos:at])
                        self._step = self._after_object
                        return at
        _append(self._value, text[pos:])
        return len(text)

    def _after_object(self, text: str, pos: int) -> int:
        if (end := _space(text, pos)) > pos:
            return end
        tag = _tag(text, pos, (UNWRAP, WRAP, FUNCTION, "{"))
        if tag is None:
            return _WAIT
        if not tag or not self._call(orphan=False):
            return self._give_up(pos)
        if tag == UNWRAP:
            return pos + len(tag)
        if tag == "{":  # several objects in one pair of tags
            self._begin("", self._opened)
        return pos


def _append(pieces: list[str], text: str) -> None:
    """Add to what is joined later; a call that comes by the letter must not become millions of objects."""
    pieces.append(text)
    if len(pieces) >= 4096:
        pieces[:] = ["".join(pieces)]


def _space(text: str, pos: int) -> int:
    """Where the white space that begins at `pos` ends."""
    found = _SPACE.match(text, pos)
    return found.end() if found else pos


def _tag(text: str, pos: int, tags: tuple[str, ...]) -> str | None:
    """Which of `tags` stands at `pos`: "" for none of them, None while it may become one."""
    for tag in tags:
        if text.startswith(tag, pos):
            return tag
    rest = text[pos:pos + len(END_PARAMETER)]
    return None if any(tag.startswith(rest) for tag in tags) else ""


def _next_call(text: str, pos: int) -> bool | None:
    """Does the closing tag of a function at `pos` stand before another call: the value's own tag was forgotten."""
    at = pos + len(END_FUNCTION)
    for tags in ((UNWRAP,), (WRAP, FUNCTION)):
        end = _space(text, at)
        if end - at > GAP_LIMIT:
            return False
        tag = _tag(text, end, tags)
        if not tag:
            return None if tag is None else False
        at = end + len(tag)
    return True
