"""Score prompts with LiteLLM's local complexity routers. Run by an interpreter that has litellm: JSON list in, JSON
out."""

from __future__ import annotations

import json
import sys
import time
from unittest.mock import MagicMock


def main() -> None:
    """Read prompts from standard input; print the scores of both routers and their time per prompt by length."""
    from litellm.router_strategy.complexity_router.complexity_router import ComplexityRouter

    prompts, timed = json.load(sys.stdin)
    first = ComplexityRouter("router", MagicMock(), {"classifier_type": "heuristic"}, derive_savings_baseline=False)
    second = ComplexityRouter("router", MagicMock(), {"classifier_type": "heuristic_v2"}, derive_savings_baseline=False)

    def learned(prompt: str) -> float:
        forecast = second._classify_locally(prompt, None).heuristic_v2_forecast
        return 1.0 - forecast["probabilities"]["SIMPLE"]

    routers = {"heuristic": lambda prompt: first.classify(prompt)[1], "heuristic_v2": learned}
    answer = {
        name: {"scores": [score(p) for p in prompts], "us": [_median(score, p) for p in timed]}
        for name, score in routers.items()
    }
    json.dump(answer, sys.stdout)


def _median(score: object, prompt: str) -> float:
    times = []
    for _ in range(7 if len(prompt) > 50_000 else 60):
        began = time.thread_time()
        score(prompt)
        times.append(time.thread_time() - began)
    return sorted(times)[len(times) // 2] * 1e6


if __name__ == "__main__":
    main()
