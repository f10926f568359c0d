"""Training prompts for the task heads, made from `phrases.txt`: slots filled, politeness, code attached, typos.
Seeded."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import NamedTuple

TASKS = ("complete", "generate", "edit", "review", "debug", "explain", "design", "math", "knowledge", "chat")
SOURCE = Path(__file__).with_name("phrases.txt")
COPIES = {"en": 9, "de": 6, "fr": 6, "es": 6, "zh": 6}
"""How often a line is filled, by language; others three times."""
_BEFORE = (
    "please ",
    "Please ",
    "can you ",
    "could you ",
    "hey, ",
    "ok, ",
    "now ",
    "I want you to ",
    "Task: ",
    "next, ",
    "Hi! ",
    "pls ",
    "would you kindly ",
    "In {file}: ",
    "@{file} ",
    "Then ",
    "also ",
    "- ",
    "Hey, could you please ",
)
_AFTER = (
    ".",
    "?",
    "!",
    " please",
    " please.",
    " thanks",
    ". Thanks!",
    "...",
    " asap",
    " for me",
    " in {file}",
    ". Keep it short.",
    ". Be concise.",
    " using {lang}",
    ". Answer in one paragraph.",
    " :)",
    ". I use {lang}.",
    ", and be careful",
    ". Take your time.",
)
_ATTACH = {
    "complete": 0.75,
    "edit": 0.3,
    "review": 0.35,
    "debug": 0.35,
    "explain": 0.3,
    "generate": 0.06,
    "design": 0.03,
}
_FIM = (
    "<fim_prefix>{a}<fim_suffix>{b}<fim_middle>",
    "<|fim_prefix|>{a}<|fim_suffix|>{b}<|fim_middle|>",
    "<PRE> {a} <SUF>{b} <MID>",
    "{a}<CURSOR>{b}",
    "[SUFFIX]{b}[PREFIX]{a}",
    "{a}\n# TODO\n{b}",
    "{a}<FILL_HERE>{b}",
    "{a}█{b}",
)
_SLOT = re.compile(r"\{(\w+)\}")


class Example(NamedTuple):
    """A prompt and the task it asks for."""

    task: str
    language: str
    prompt: str


def _read() -> tuple[list[Example], dict[str, list[str]]]:
    lines, slots, head = [], {}, ""
    for line in SOURCE.read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]") and (line == "[slots]" or line[1:].split()[0] in TASKS):
            head = line[1:-1]
        elif head == "slots":
            name, _, values = line.partition(" = ")
            slots[name] = values.split(" | ")
        elif line and not line.startswith("# "):
            task, language = head.split()
            lines.append(Example(task, language, line))
    return lines, slots


def _typos(text: str, chance: random.Random, rate: float) -> str:
    letters = list(text)
    for i in range(len(letters) - 1):
        if letters[i].isalpha() and letters[i].isascii() and chance.random() < rate:
            kind = chance.randrange(4)
            if kind == 0:
                letters[i] = ""
            elif kind == 1:
                letters[i], letters[i + 1] = letters[i + 1], letters[i]
            elif kind == 2:
                letters[i] *= 2
            else:
                letters[i] = chance.choice("abcdefghijklmnopqrstuvwxyz")
    return "".join(letters)


class Maker:
    """Fills lines with the choices of one seeded generator."""

    def __init__(self, slots: dict[str, list[str]], code: list[str], seed: int) -> None:
        """Take the lists for the slots and pieces of code to attach."""
        self._slots, self._code, self._chance = slots, code, random.Random(seed)

    def fill(self, line: str) -> str:
        """Replace every slot by one of its values."""
        return _SLOT.sub(lambda m: self._chance.choice(self._slots[m[1]]) if m[1] in self._slots else m[0], line)

    def _code_for(self, task: str) -> str:
        code = self._chance.choice(self._code)
        return code[: self._chance.randrange(20, max(21, len(code)))] if task == "complete" else code[:600]

    def dress(self, example: Example) -> Example:
        """Say a line as somebody in a hurry, or somebody polite, would, perhaps with code."""
        chance, text = self._chance, self.fill(example.prompt)
        if chance.random() < 0.5:
            text = text[:1].upper() + text[1:]
        short = len(text) < 14 and example.task == "chat"
        if example.language == "en" and chance.random() < 0.3 and not short:
            text = self.fill(chance.choice(_BEFORE)) + text
        if chance.random() < 0.5:
            text += self.fill(chance.choice(_AFTER if example.language == "en" and not short else _AFTER[:3]))
        if chance.random() < 0.22:
            text = _typos(text, chance, 0.06)
        if chance.random() < _ATTACH.get(example.task, 0.0):
            code = self._code_for(example.task)
            text = (
                chance.choice(("{t}\n\n{c}", "{t}:\n{c}", "{t}\n\n```\n{c}\n```", "{c}\n\n{t}"))
                .replace("{t}", text)
                .replace("{c}", code)
            )
        return Example(example.task, example.language, text)

    def raw(self) -> Example:
        """Code that stops somewhere, or with a hole: what an editor sends."""
        chance, code = self._chance, self._chance.choice(self._code)
        cut = chance.randrange(10, max(11, len(code)))
        if chance.random() < 0.55:
            return Example("complete", "en", code[:cut])
        shape = chance.choice(_FIM)
        return Example(
            "complete", "en", shape.replace("{a}", code[:cut]).replace("{b}", code[cut + chance.randrange(1, 80) :])
        )


def examples(code: list[str], seed: int = 7) -> list[Example]:
    """Make all training prompts; equal for equal arguments."""
    lines, slots = _read()
    maker = Maker(slots, code, seed)
    made = [maker.dress(line) for line in lines for _ in range(COPIES.get(line.language, 3))]
    made += [maker.raw() for _ in range(500)]
    return list({m.prompt: m for m in made if m.prompt.strip()}.values())
