"""The labelled rows that the shipped heads are trained on, each set with its licence and the task it stands for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.routing import data, phrases
from bench.routing.linear import Vector
from bench.routing.phrases import Example

TIER_PHRASES = Path(__file__).with_name("tiers.txt")
CAP = 200
"""Rows of one public set that teach the task heads, so that no set outweighs the phrases."""
LICENCES = {
    "phrases.txt and the dev half of tests/data/intents": "this project's own",
    "routellm_mmlu, routellm_gsm8k (lm-sys/RouteLLM)": "Apache-2.0",
    "llmrouter_9models (ulab-uiuc/LLMRouter)": "MIT",
    "arena_hard_questions (lmarena/arena-hard-auto)": "Apache-2.0",
    "semantic_router_recipe_probes (vllm-project/semantic-router)": "Apache-2.0",
    "swebench texts (ITMO-NSS-team/chronorepo_icdm26), for code and bug reports": "BSD-3-Clause",
    "exercism_difficulty (exercism)": "MIT",
    "humaneval_prompts (openai/human-eval)": "MIT",
}
_TASKS = {
    "gsm8k": "math",
    "math": "math",
    "agentverse-mgsm": "math",
    "agentverse-logicgrid": "math",
    "trivia_qa": "knowledge",
    "natural_qa": "knowledge",
    "openbook_qa": "knowledge",
    "arc_challenge": "knowledge",
    "commonsense_qa": "knowledge",
    "gpqa": "knowledge",
    "mbpp": "generate",
    "human_eval": "complete",
}
_MATH = (
    "abstract_algebra",
    "college_mathematics",
    "elementary_mathematics",
    "formal_logic",
    "high_school_mathematics",
    "high_school_statistics",
)
_HIGHER, _SCHOOL = ("college_", "professional_"), ("high_school_", "elementary_", "miscellaneous")
"""How the subjects of MMLU begin that are of a university or a profession, and those of school."""
_LEVELS = {
    "gpqa": True,
    "math": True,
    "agentverse-logicgrid": True,
    "trivia_qa": False,
    "natural_qa": False,
    "commonsense_qa": False,
    "openbook_qa": False,
}
"""Sets that were made to be hard (graduate science, competitions, logic puzzles), and sets of everyday questions."""
_FENCE = re.compile(r"```\w*\n(.{40,1500}?)```", re.DOTALL)
_CODE = ("mbpp", "human_eval")
SMALL = ("llama-3.1-8b-instruct", "qwen2.5-7b-instruct", "gemma-2-9b-it", "mistral-7b-instruct-v0.3")
LARGE = ("llama-3.1-nemotron-51b-instruct", "llama-3.3-nemotron-super-49b-v1")
_HIGH = (
    "accuracy_workflow",
    "accuracy_deliberation",
    "domain_stem_research",
    "complex_general",
    "premium_legal",
    "formal_math_proof",
    "reasoning_deep",
    "complex_specialist",
    "balance_deliberate",
    "balanced_deliberate",
    "speed_heavy_workload",
    "speed_heavy",
    "cost_bounded_reasoning",
    "cost_reasoning",
    "accuracy_dynamic_workflow",
    "accuracy_expert_fusion",
    "accuracy_multi_round_exploration",
    "frontier_remom",
    "frontier_fusion",
    "frontier_workflow",
    "frontier_verified",
    "cloud_frontier_reasoning",
    "feedback_verified_recovery",
    "feedback_general_recovery",
    "escalate_72b",
)
_LOW = (
    "simple_math_fast_path",
    "simple_general",
    "medium_general",
    "domain_code",
    "domain_business",
    "fast_qa",
    "casual_chat",
    "medium_code_general",
    "medium_creative",
    "medium_explainer",
    "feedback_need_clarification",
    "balance_standard",
    "balanced_standard",
    "speed_interactive",
    "speed_tools",
    "cost_direct_economy",
    "cost_direct",
    "accuracy_direct",
    "accuracy_long_context_or_direct_reference",
    "frontier_direct",
    "privacy_default",
    "local_standard",
    "feedback_default",
    "keep_7b",
    "vault_private_default",
    "vault_tools_blocked",
    "balance_tools",
)


class Outcomes(NamedTuple):
    """Prompts with the share of weaker and of stronger models that solved them, and the set each is from."""

    prompts: list[str]
    weak: Vector
    strong: Vector
    sets: list[str]


class Tiers(NamedTuple):
    """Probes written for an easy (False) or a hard (True) tier, and the recipe each is from."""

    prompts: list[str]
    hard: np.ndarray[Any, np.dtype[np.bool_]]
    recipes: list[str]


def code_pieces(root: Path) -> list[str]:
    """Code blocks and function heads from public prompts, to attach to asks and to cut for completion."""
    texts = [
        r["prompt"]
        for name in ("arena_hard_questions", "swebench_verified_qwen3coder_opus4")
        for r in data.load(root / f"{name}.jsonl")
    ]
    blocks = [found.replace("\r", "") for text in texts for found in _FENCE.findall(text)]
    return blocks + [r["prompt"] for r in data.load(root / "humaneval_prompts.jsonl")]


def intents(half: str) -> list[Example]:
    """Own intents of one half, `dev` or `held_out`."""
    return [Example(r["task"], r["language"], r["prompt"]) for r in data.load(data.INTENTS) if r["half"] == half]


def task_examples(root: Path) -> list[Example]:
    """Everything the task heads learn from: phrases, the dev half of the own intents, benchmarks of origin."""
    public: dict[str, list[Example]] = {}
    for row in data.load(root / "routellm_mmlu.jsonl"):
        task = "math" if row["domain"] in _MATH else "knowledge"
        public.setdefault(f"mmlu-{task}", []).append(Example(task, "en", row["prompt"]))
    for row in data.load(root / "llmrouter_9models.jsonl"):
        if row["task"] in _TASKS:
            public.setdefault(row["task"], []).append(Example(_TASKS[row["task"]], "en", row["prompt"]))
    for row in data.load(root / "routellm_gsm8k.jsonl"):
        public.setdefault("routellm-gsm8k", []).append(Example("math", "en", row["prompt"]))
    for row in data.load(root / "swebench_verified_qwen3coder_opus4.jsonl"):
        public.setdefault("swebench", []).append(Example("debug", "en", row["prompt"]))
    for row in data.load(root / "exercism_difficulty.jsonl"):
        public.setdefault("exercism", []).append(Example("generate", "en", row["prompt"]))
    for row in data.load(root / "arena_hard_questions.jsonl"):
        if row["category"] == "creative_writing":
            public.setdefault("creative", []).append(Example("chat", "en", row["prompt"]))
    chance = np.random.default_rng(11)
    chosen = [rows[i] for rows in public.values() for i in chance.permutation(len(rows))[:CAP]]
    own = intents("dev")
    return phrases.examples(code_pieces(root)) + chosen + own * 3


def outcomes(root: Path) -> Outcomes:
    """Graded answers: RouteLLM's pair, and small against large models of LLMRouter. No code: there the labels were
    noise."""
    rows: list[tuple[str, float, float, str]] = []
    for name in ("routellm_mmlu", "routellm_gsm8k"):
        rows += [
            (r["prompt"], r["weak"], r["strong"], name)
            for r in data.load(root / f"{name}.jsonl")
            if not r["contaminated"]
        ]
    for r in data.load(root / "llmrouter_9models.jsonl"):
        if r["task"] in _CODE:
            continue
        weak, strong = ([r["scores"][m] for m in names if r["scores"].get(m) is not None] for names in (SMALL, LARGE))
        if weak and strong:
            rows.append((r["prompt"], float(np.mean(weak)), float(np.mean(strong)), r["task"]))
    prompts, weak, strong, sets = zip(*rows, strict=True)
    return Outcomes(list(prompts), np.array(weak, dtype=float), np.array(strong, dtype=float), list(sets))


def tier_phrases() -> tuple[list[str], list[bool]]:
    """Own sentences that ask for much thought or for little."""
    lines = [line for line in TIER_PHRASES.read_text(encoding="utf-8").split("\n") if line[:2] in ("+ ", "- ")]
    return [line[2:] for line in lines], [line[0] == "+" for line in lines]


def levels(root: Path) -> tuple[list[str], list[bool]]:
    """Public questions whose level is told by where they come from: no one of ours looked at them to label them."""
    public: dict[tuple[str, bool], list[str]] = {}
    for row in data.load(root / "routellm_mmlu.jsonl"):
        if row["domain"].startswith(_HIGHER + _SCHOOL):
            higher = row["domain"].startswith(_HIGHER)
            public.setdefault(("mmlu", higher), []).append(row["prompt"])
    for row in data.load(root / "llmrouter_9models.jsonl"):
        if row["task"] in _LEVELS:
            public.setdefault((row["task"], _LEVELS[row["task"]]), []).append(row["prompt"])
    chance = np.random.default_rng(12)
    chosen = [(rows[i], hard) for (_, hard), rows in public.items() for i in chance.permutation(len(rows))[:CAP]]
    return [prompt for prompt, _ in chosen], [hard for _, hard in chosen]


def tiers(root: Path) -> Tiers:
    """Probes whose tier is about the text; those about images, context size, privacy or tools alone are left out."""
    rows = [r for r in data.load(root / "semantic_router_recipe_probes.jsonl") if r["decision"] in _HIGH + _LOW]
    seen: dict[tuple[str, str], dict[str, Any]] = {(r["recipe"], r["prompt"]): r for r in rows}
    kept = list(seen.values())
    return Tiers(
        [r["prompt"] for r in kept], np.array([r["decision"] in _HIGH for r in kept]), [r["recipe"] for r in kept]
    )
