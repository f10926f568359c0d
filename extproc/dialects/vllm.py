"""vLLM.

Sources: github vllm-project/vllm, vllm/entrypoints: openai/chat_completion/protocol.py, and chat_utils.py, which
reads `reasoning` of earlier turns; older versions read reasoning_content.
"""

from __future__ import annotations

from extproc.dialects import _chat, _messages
from extproc.dialects.base import Fields, Notes
from extproc.dialects.compatible import Compatible, report_usage
from extproc.schemas.base import Target


class Vllm(Compatible):
    """vLLM's server: it takes top_k, min_p, repetition_penalty and every effort; tools must be on at its start."""

    name = "vllm"
    verbatim = False
    native = frozenset({"completions", "embeddings", "count_tokens"})
    fim = "template"  # its /v1/completions has no suffix
    lacks = frozenset({"documents"})

    def settle(self, fields: Fields, target: Target, notes: Notes) -> None:
        """Name what it would ignore, and have usage in every chunk: exact also when the client hangs up."""
        _chat.drop(fields, ("user",), notes)  # ignored there
        _messages.replace_parts(fields, _messages.no_files, notes)
        _messages.thinking_as(fields, "reasoning_content")
        for message in _chat.messages(fields, "assistant"):
            if isinstance(thought := message.get("reasoning_content"), str):
                message["reasoning"] = thought
        report_usage(fields, continuous_usage_stats=True)
        if "qwen" in target.model.lower():
            _chat.switch_thinking(fields)
