"""Fill in the middle for backends without an API for it: by a model's own prompt template, or by asking a chat model.

The markers are special tokens of each family's tokenizer; they work where a server reads special tokens in a prompt of
/v1/completions (vLLM, llama.cpp). Sources: the model cards and papers of Qwen2.5-Coder and Qwen3-Coder, CodeLlama,
StarCoder, DeepSeek-Coder, CodeGemma, Granite (code and 4.0), and mistral-common's FIM encoding for Codestral.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from extproc.core.conversation import Conversation, Done, Event, Failure, Message, Prompt, Stop, Text, TextDelta
from extproc.core.errors import RequestError

_WHOLE_PROMPT_ONLY = frozenset({"prompt:list", "prompt:tokens"})


class Template(msgspec.Struct, frozen=True):
    """How a family writes the two parts, between three markers, and the tokens that end a middle."""

    markers: tuple[str, str, str]
    stop: tuple[str, ...]
    suffix_first: bool = False


_PLAIN = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
_BARRED = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
_DEEPSEEK = ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>")
_STARCODER = Template(_PLAIN, ("<|endoftext|>", "<file_sep>", *_PLAIN))
_FAMILIES = {
    r"qwen-?[\d.]+-?coder":
        Template(_BARRED, ("<|endoftext|>", "<|im_end|>", "<|file_sep|>", "<|fim_pad|>", *_BARRED)),
    r"code-?gemma": Template(_BARRED, ("<|file_separator|>", "<eos>", *_BARRED)),
    r"granite-?4": Template(_BARRED, ("<|end_of_text|>", *_BARRED)),
    r"granite|starcoder|codeqwen": _STARCODER,
    r"code-?llama": Template(("<PRE> ", " <SUF>", " <MID>"), ("<EOT>", "</s>")),
    r"deepseek-?coder": Template(_DEEPSEEK, ("<｜end▁of▁sentence｜>", "<|EOT|>", *_DEEPSEEK)),
    r"codestral": Template(("[SUFFIX]", "[PREFIX]", ""), ("</s>", "[SUFFIX]", "[PREFIX]"), suffix_first=True),
}
_TEMPLATES = [(re.compile(pattern), found) for pattern, found in _FAMILIES.items()]


def template(model: str) -> Template | None:
    """The template of a model's family, by the model's name; None when it is unknown or has none."""
    name = re.sub(r"[_\s]+", "-", model.lower())
    return next((found for pattern, found in _TEMPLATES if pattern.search(name)), None)


def build(template: Template, prefix: str, suffix: str) -> tuple[str, tuple[str, ...]]:
    """The prompt, and the tokens to stop at."""
    first, second = (suffix, prefix) if template.suffix_first else (prefix, suffix)
    before, between, after = template.markers
    return f"{before}{first}{between}{second}{after}", template.stop


def as_template(conversation: Conversation, model: str) -> Conversation:
    """A completion with its suffix written into the prompt; one without a suffix stays as it is.

    Raises:
        RequestError: the model's family has no template, or the prompt is not one text.
    """
    prompt = conversation.prompt
    if prompt is None or prompt.suffix is None:
        return conversation
    if _WHOLE_PROMPT_ONLY & set(conversation.demands):
        raise RequestError("suffix: this backend fills in the middle of one text only", param="prompt")
    if (found := template(model)) is None:
        raise RequestError("suffix: the model cannot fill in the middle", param="suffix")
    text, stop = build(found, prompt.text, prompt.suffix)
    return msgspec.structs.replace(
        conversation, prompt=Prompt(text, None, prompt.echo), stop=tuple(dict.fromkeys((*conversation.stop, *stop))))


# ---------------------------------------------------------------------------------------- by a chat model

_CONTINUE = """\
Continue the text below from exactly where it ends. Output only the text that comes next: no introduction, no \
explanation, no code fence, and nothing of the text itself.

<{tag}>
{prefix}</{tag}>"""
_FILL = """\
A gap in a text is to be filled. Output only the text that goes between the two parts below: no introduction, no \
explanation, no code fence, and nothing of the parts themselves. Keep the indentation. If nothing is missing, output \
nothing.

<before_{tag}>
{prefix}</before_{tag}>
<after_{tag}>
{suffix}</after_{tag}>"""


def as_chat(conversation: Conversation) -> Conversation:
    """A completion as a chat: an instruction with the text before the gap and, when there is one, after it.

    The answer goes through `PlainText`. Without a prompt the conversation stays as it is.
    """
    prompt = conversation.prompt
    if prompt is None:
        return conversation
    form = _FILL if prompt.suffix else _CONTINUE
    suffix = prompt.suffix or ""
    text = form.format(tag=_tag(prompt.text + suffix), prefix=prompt.text, suffix=suffix)
    return msgspec.structs.replace(
        conversation, task="chat", prompt=None, messages=(Message("user", (Text(text),)),))


def _tag(text: str) -> str:
    """A tag that the text cannot close."""
    tag = "text"
    while f"{tag}>" in text:
        tag += "_"
    return tag


_FENCE = re.compile(r"\s*?([ \t]*)(`{3,})[^`\n]*\n")
_MAYBE_FENCE = re.compile(r"\s*(?:`{0,2}|`{3,}[^`\n]*)")
_MAX_FENCE = 200
"""Characters of white space and an opening fence line to wait for."""
_LEAST_LINE = 6
"""Letters and digits that a line must have to be taken for repeated: shorter ones repeat in honest text."""


class PlainText:
    """A filter over the events of an answer to `as_chat`: takes off what chat models add in spite of the instruction.

    That is a code fence around the whole answer (and what follows it), and a repetition of the line that the answer
    goes on from (known from `prompt`). Text is held back only while it may be part of one of these.
    """

    __slots__ = ("_closing", "_held", "_lead", "_line", "_opening", "_over")

    def __init__(self, prompt: Prompt | None = None) -> None:
        self._held = ""
        # In a text that has fences itself, one in the answer may be meant.
        self._opening = prompt is None or "```" not in prompt.text + (prompt.suffix or "")
        self._line = "" if prompt is None else _last_line(prompt.text)
        self._closing: str | None = None
        self._lead: bool | None = None
        self._over = False

    def feed(self, event: Event) -> Sequence[Event]:
        """Return the events that take this one's place."""
        match event:
            case TextDelta(text=text):
                self._held += text
                return self._taken(last=False)
            case Stop() | Done():
                return (*self._taken(last=True), event)
            case Failure():
                self._held = ""
                return (event,)
            case _:
                return (event,)

    def _taken(self, *, last: bool) -> tuple[Event, ...]:
        text = self._take(last=last)
        return (TextDelta(text),) if text else ()

    def _take(self, *, last: bool) -> str:
        """The text that is certain now."""
        if self._over:
            self._held = ""
        if self._opening and not self._opened(last=last):
            return ""
        if self._line and not self._compared(last=last):
            return ""
        if self._closing is not None:
            return self._fenced(self._closing, last=last)
        text, self._held = self._held, ""
        return text

    def _opened(self, *, last: bool) -> bool:
        """Take off an opening fence; False while more text is needed to see one."""
        if (fence := _FENCE.match(self._held)) is not None:
            # It ends with as many ticks at the same indentation: fences within the text stand deeper, or are shorter.
            self._closing = rf"\n{fence[1]}`{{{len(fence[2])},}}[ \t]*"
            self._held = self._held[fence.end() :]
        elif not last and len(self._held) < _MAX_FENCE and _MAYBE_FENCE.fullmatch(self._held):
            return False
        self._opening = False
        return True

    def _compared(self, *, last: bool) -> bool:
        """Take off the repeated line; False while more text is needed to see it."""
        text = self._held.lstrip(" \t")
        if not last and len(text) < len(self._line) and self._line.startswith(text):
            return False
        if text.startswith(self._line):
            self._held = text[len(self._line) :]
        self._line = ""
        return True

    def _fenced(self, closing: str, *, last: bool) -> str:
        """Text up to the closing fence; a line that may become it is held back with the line break before it."""
        if self._lead is None:
            self._lead, self._held = True, "\n" + self._held  # the fence may close on the first line
        text = self._unfenced(closing, last=last)
        if text and self._lead:
            self._lead, text = False, text[1:]
        return text

    def _unfenced(self, closing: str, *, last: bool) -> str:
        text, self._held = self._held, ""
        if (fence := re.search(closing + (r"(?:\n|\Z)" if last else r"\n"), text)) is not None:
            self._over = True
            return text[: fence.start()]
        start = text.rfind("\n")
        if last or start < 0 or text[start:].strip(" \t\n`"):
            return text
        self._held = text[start:]
        return text[:start]


def _last_line(prefix: str) -> str:
    """What a model repeats when it begins with the line it should go on from; empty when that would be too short."""
    head, _, tail = prefix.rpartition("\n")
    line = tail.lstrip() or head.rpartition("\n")[2].strip() + "\n" + tail
    return line if sum(map(str.isalnum, line)) >= _LEAST_LINE else ""
