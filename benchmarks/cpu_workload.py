"""What the CPU comparison measures, shared by our process and the peer's: neither jax nor torch is imported here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FIRST_PLAIN_TOKEN = 100
"""Ids below are often special tokens."""


@dataclass(frozen=True, kw_only=True)
class CpuWorkload:
    """One prefill case and one decode case per batch size."""

    prefill_len: int = 512
    prompt_len: int = 128
    output_len: int = 128
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    repeats: int = 1
    """Measurements of each case in one round; the median counts."""
    vocab_size: int = 32_000
    """Prompts are random ids below this."""

    @property
    def prefill_name(self) -> str:
        return f"prefill {self.prefill_len}"

    def decode_name(self, batch_size: int) -> str:
        return f"decode batch {batch_size}"

    @property
    def case_names(self) -> list[str]:
        return [self.prefill_name, *(self.decode_name(batch_size) for batch_size in self.batch_sizes)]


def random_prompts(generator: np.random.Generator, batch_size: int, length: int, vocab_size: int) -> list[list[int]]:
    """Fresh prompts for each measurement, so that no prefix cache can help."""
    ids = generator.integers(FIRST_PLAIN_TOKEN, vocab_size, (batch_size, length))
    return [[int(token_id) for token_id in row] for row in ids]


def decode_rate(step_times: list[tuple[float, int]], batch_size: int) -> float:
    """Tokens per second once every request has its first token; `step_times` is (time, tokens that came) in order."""
    num_before = 0
    for index, (time, num_tokens) in enumerate(step_times):
        num_before += num_tokens
        if num_before >= batch_size:
            rest = step_times[index + 1 :]
            return sum(num_tokens for _, num_tokens in rest) / (rest[-1][0] - time)
    raise ValueError(f"expected at least {batch_size} tokens, got {num_before}")
