"""The text model: what it reads, what it names, what it costs, and what its artefact may not be."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.textmodel import CLOUD_PRIOR, LOCAL_PRIOR, TASKS, Prior, TextModel, load
from extproc.textmodel import features as text_features
from extproc.textmodel.features import BITS, EDGE, GRAM, HALF, WINDOW, extract
from extproc.textmodel.model import ARTEFACT, HEADS, parse

ROOT = Path(__file__).parents[2]
INTENTS = [
    json.loads(line)
    for line in (ROOT / "tests/data/intents/intents.jsonl").read_text(encoding="utf-8").split("\n")
    if line
]
HOSTILE = (
    "",
    " ",
    "a",
    "\x00" * 5000,
    "\ud800",
    "\ud800\udfff" * 900,
    "𝒳" * 3000,
    "\n" * 100_000,
    "(" * 50_000,
    "a" * 1_000_000,
    "ab " * 400_000,
    "é́" * 5000,
    "中" * 10_000,
    "\u202e\ufeff\u2028" * 500,
    "0" * 3,
    "🙂",
)


@pytest.fixture(scope="module")
def model() -> TextModel:
    """The shipped model."""
    return load()


class TestReading:
    """What a reading says."""

    @pytest.mark.parametrize(
        ("ask", "task"),
        [
            ("def add(a, b):\n    return ", "complete"),
            ("Write a Go program that prints the first 50 primes.", "generate"),
            ("Rename foo to bar in all files", "edit"),
            ("Review my pull request", "review"),
            ("The tests fail with a NullPointerException, please fix it", "debug"),
            ("What does this function do?", "explain"),
            ("Design the architecture of a payment system and discuss the trade-offs", "design"),
            ("Solve 3x + 4 = 19", "math"),
            ("Who was the first emperor of Rome?", "knowledge"),
            ("Thanks, bye!", "chat"),
            ("Schreibe ein Python-Skript, das Bilder verkleinert", "generate"),
            ("请解释这段代码", "explain"),
        ],
    )
    def test_names_the_task(self, model: TextModel, ask: str, task: str) -> None:
        """Plain asks of every task, and of other languages, are told apart."""
        assert task == model.read(ask).task

    def test_held_out_intents_reach_the_aim_less_one_deviation(self, model: TextModel) -> None:
        """At least 88 of 100 intents that no training saw are named rightly (the aim is 90; see docs/routing.md)."""
        held = [row for row in INTENTS if row["half"] == "held_out"]
        right = [model.read(row["prompt"]).task == row["task"] for row in held]
        assert len(held) > 150
        assert sum(right) / len(right) >= 0.88

    def test_gain_is_the_difference_of_two_probabilities(self, model: TextModel) -> None:
        """Probabilities lie within 0 and 1 and the gain is their difference, for every intent."""
        for row in INTENTS:
            got = model.read(row["prompt"])
            assert 0.0 < got.p_local < 1.0
            assert 0.0 < got.p_cloud < 1.0
            assert got.gain == got.p_cloud - got.p_local
            assert 0.1 <= got.task_probability <= 1.0

    def test_deep_work_gains_more_than_small_talk(self, model: TextModel) -> None:
        """A cloud backend is expected to add more to a design than to a greeting."""
        deep = model.read("Design a multi-region ledger and justify the consistency trade-offs step by step.")
        assert deep.gain > model.read("hello").gain + 0.1
        assert deep.hard > 0 > model.read("hello").hard

    def test_prior_decides_what_a_backend_is_good_at(self, model: TextModel) -> None:
        """With a local backend that fails at debugging, the gain of a debug ask grows and others stay."""
        bad = Prior(**{task: getattr(LOCAL_PRIOR, task) for task in TASKS if task != "debug"}, debug=0.1)
        ask = "fix the failing test, it throws a TypeError"
        assert model.read(ask, bad, CLOUD_PRIOR).gain > model.read(ask).gain + 0.3
        assert model.read("hello", bad, CLOUD_PRIOR).gain == pytest.approx(model.read("hello").gain, abs=0.02)

    def test_same_ask_same_reading(self, model: TextModel) -> None:
        """A reading depends on the ask alone."""
        assert model.read("fix the bug") == model.read("fix the bug")


class TestWhy:
    """Explanations are exact, and discreet."""

    @pytest.mark.parametrize("head", HEADS)
    def test_pieces_add_up_to_the_logit(self, model: TextModel, head: str) -> None:
        """The parts of an explanation sum to the head's logit."""
        for row in INTENTS[::20]:
            whole = sum(part.weight for part in model.explain(row["prompt"], head))
            assert whole == pytest.approx(model.logits(row["prompt"])[head], abs=2e-3)

    def test_names_the_words_that_decided(self, model: TextModel) -> None:
        """The reason starts with the task and names telling words."""
        why = model.read("please refactor this class").why
        assert why[0].startswith("edit ")
        assert "+refactor" in why

    def test_never_repeats_words_it_does_not_know(self, model: TextModel) -> None:
        """A secret in a prompt is in no reason and in no explanation."""
        secret = "sk-Zq81kkPw0vTTx"
        ask = f"fix the error, my key is {secret} {secret} and the password is Xyzzyq77"
        said = " ".join(model.read(ask).why) + " ".join(p.name for p in model.explain(ask, "debug"))
        assert "zq81" not in said.lower()
        assert "xyzzyq77" not in said.lower()


class TestHostileText:
    """A prompt can do no more than its measured features."""

    @pytest.mark.parametrize("ask", HOSTILE, ids=lambda ask: repr(ask[:6]))
    def test_any_string_is_read(self, model: TextModel, ask: str) -> None:
        """Empty, enormous, binary and malformed asks have a reading with finite figures."""
        got = model.read(ask)
        assert np.isfinite([got.task_probability, got.p_local, got.p_cloud, got.hard]).all()

    @given(st.text(alphabet=st.characters(codec=None), max_size=3000))
    @settings(max_examples=150, deadline=None)
    def test_no_text_fails(self, ask: str) -> None:
        """Whatever the characters, reading raises nothing and the explanation adds up."""
        model = load()
        got = model.read(ask)
        assert 0.0 < got.p_local < 1.0
        assert sum(p.weight for p in model.explain(ask, "hard")) == pytest.approx(got.hard, abs=5e-3)

    @pytest.mark.parametrize("ask", ["", " " * 100_000, "\n?!\n", "{" * 5000])
    def test_text_without_a_word_abstains(self, model: TextModel, ask: str) -> None:
        """Where there is no word, no task is likely and the reading is that of the empty ask."""
        got = model.read(ask)
        assert got.task_probability < 0.6
        assert got == model.read("")

    def test_repeating_a_word_gains_nothing(self, model: TextModel) -> None:
        """A word said five hundred times weighs like one said a few times: the tier does not run away."""
        few, many = model.read("prove " * 5).hard, model.read("prove " * 300).hard
        assert abs(many - few) < 3.0

    def test_odds_move_within_bounds(self, model: TextModel) -> None:
        """Random text cannot push a backend's odds beyond prior, tier and outcome limits."""
        chance = random.Random(3)
        for _ in range(300):
            ask = "".join(chance.choice("proveanalyze trade-offs!?{}=\n中") for _ in range(chance.randrange(1, 400)))
            got = model.read(ask)
            assert 0.3 < got.p_local < 0.99
            assert 0.5 < got.p_cloud < 0.995

    def test_only_head_and_tail_of_a_long_ask_are_read(self, model: TextModel) -> None:
        """What stands in the middle of a long ask changes nothing."""
        head, tail = "fix the bug " * 100, " and explain it" * 100
        first, second = (head + filler * 100_000 + tail for filler in ("a", "b"))
        assert model.read(first) == model.read(second)

    def test_cost_is_bounded_at_any_size(self, model: TextModel) -> None:
        """A megabyte costs no more than a few times the window (generous: shared machines)."""

        def cost(ask: str) -> float:
            times = []
            for _ in range(60):
                began = time.thread_time()
                model.read(ask)
                times.append(time.thread_time() - began)
            return sorted(times)[30]

        window, huge = "fix the bug in app.py now " * 77, "fix the bug in app.py now " * 40_000
        assert len(window) > WINDOW
        assert cost(huge) < 3 * cost(window) + 1e-4
        assert cost(huge) < 1.2e-3


class TestFeatures:
    """What is counted."""

    def test_case_accents_and_digits_do_not_matter(self) -> None:
        """Words are compared without case and accents, and every digit is a digit."""
        rows = [extract(ask).rows.tolist() for ask in ("Écris 123", "ecris 987")]
        assert rows[0] == rows[1]

    def test_every_row_belongs_to_a_word(self) -> None:
        """Rows lie within the table and are blamed on existing words; groups cover them without a gap."""
        seen = extract("Rename foo_bar in src/app.py, please! 你好")
        assert seen.rows.max() < 1 << BITS
        assert seen.words.max() < len(seen.starts)
        assert seen.marks[0] == 0
        assert seen.marks[-1] == len(seen.rows)
        assert (np.diff(seen.marks) >= 0).all()

    def test_rows_are_distinct(self) -> None:
        """A repeated word or n-gram is one row."""
        rows = extract("again and again and again").rows
        assert len(set(rows.tolist())) == len(rows)

    def test_words_are_found_where_they_stand(self) -> None:
        """Boundaries fall around words and around each Chinese character."""
        seen = extract("fix it: 修复")
        words = [seen.text[a:b] for a, b in zip(seen.starts, seen.ends, strict=True)]
        assert words == ["fix", "it", "修", "复"]

    def test_window_keeps_head_and_tail(self) -> None:
        """Of a long ask, equal parts of both ends are kept."""
        ask = "h" * HALF + "m" * 500 + "t" * HALF
        assert text_features.window(ask) == "h" * HALF + "t" * HALF
        assert text_features.window("short") == "short"

    def test_equal_hash_wherever_a_word_stands(self) -> None:
        """A word's row does not depend on its place."""
        first, second = (
            extract("zebra one two three four five six seven"),
            extract("one two three four five zebra six seven nine"),
        )
        shared = set(first.rows[: first.marks[1]].tolist()) & set(second.rows[: second.marks[1]].tolist())
        assert len(shared) == 8
        assert EDGE == GRAM == 4


class TestArtefact:
    """The shipped file."""

    def test_is_small_and_says_where_it_comes_from(self, model: TextModel) -> None:
        """One file under 3 MB with version, sha256 and training report; the report beside it is about the same file."""
        beside = json.loads(ARTEFACT.with_name("training_report.json").read_text(encoding="utf-8"))
        assert ARTEFACT.stat().st_size < 3_000_000
        assert ARTEFACT.stat().st_size == beside["bytes"]
        assert model.version == beside["version"]
        assert model.report["sources"] == beside["sources"]
        assert len(model.sha256) == 64

    def test_damage_is_noticed(self) -> None:
        """A flipped bit in the payload is refused."""
        raw = bytearray(ARTEFACT.read_bytes())
        raw[-10] ^= 1
        with pytest.raises(ValueError, match="sha256"):
            parse(bytes(raw))

    def test_another_file_is_refused(self) -> None:
        """Bytes without the magic are no model."""
        with pytest.raises(ValueError, match="not a text model"):
            parse(b"PK\x03\x04" + b"\0" * 100)

    def test_intents_are_split_by_hash(self) -> None:
        """The half of an intent is the lowest bit of the first byte of its prompt's sha256; ten tasks, five
        languages, 300 at least."""
        import hashlib

        assert len(INTENTS) >= 300
        assert set(TASKS) == {row["task"] for row in INTENTS}
        assert {"en", "de", "fr", "es", "zh"} == {row["language"] for row in INTENTS}
        for row in INTENTS:
            odd = hashlib.sha256(row["prompt"].encode()).digest()[0] & 1
            assert ("held_out" if odd else "dev") == row["half"]

    def test_training_saw_no_held_out_intent(self) -> None:
        """No training phrase is a held-out intent."""
        from bench.routing import phrases

        held = {row["prompt"] for row in INTENTS if row["half"] == "held_out"}
        made = {e.prompt for e in phrases.examples(["x = 1\n" * 40])}
        assert len(made) > 5000
        assert len(held & made) <= 5, "short greetings may coincide; train() removes them"

    def test_loads_fast_with_numpy_alone(self) -> None:
        """A fresh process loads it within twice the aim of 150 ms and imports neither scipy nor scikit-learn."""
        code = (
            "import time, sys, numpy, msgspec; t = time.perf_counter(); from extproc.textmodel import load; load().read('x');"
            "print(time.perf_counter() - t, any(m.split('.')[0] in ('scipy', 'sklearn') for m in sys.modules))"
        )
        took = [
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
            ).stdout.split()
            for _ in range(2)
        ]
        assert min(float(t[0]) for t in took) < 0.3
        assert {"False"} == {t[1] for t in took}
