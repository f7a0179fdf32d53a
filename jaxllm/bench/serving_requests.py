"""What a serving benchmark asks: prompts as text or token ids, from random numbers or from files."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.bench.workload import BenchmarkRequest, check_counts
from jaxllm.errors import ValidationError


@dataclass(frozen=True, kw_only=True)
class ServingRequest:
    """One prompt for a server, and the most tokens to generate for it."""

    prompt: str | list[int]
    """Text, or token ids where the endpoint takes them."""
    prompt_len: int | None
    """Tokens of the prompt; None where only the server knows."""
    output_len: int


def ragged_random_requests(
    *,
    num_requests: int,
    input_len: int,
    output_len: int,
    range_ratio: float,
    prefix_len: int,
    vocab_size: int,
    seed: int,
) -> list[BenchmarkRequest]:
    """Random token ids behind a prefix that all share; the same seed gives the same prompts.

    Lengths are uniform within `range_ratio` around `input_len` and `output_len`; the prefix comes on top.
    """
    check_counts(num_requests=num_requests, input_len=input_len, output_len=output_len)
    if not 0 <= range_ratio < 1:
        raise ValidationError(f"random_range_ratio must be in [0, 1), got {range_ratio}", parameter="range_ratio")
    rng = np.random.default_rng(seed)
    prefix = rng.integers(0, vocab_size, size=prefix_len).tolist()
    input_lens, output_lens = (_lengths(rng, mean, range_ratio, num_requests) for mean in (input_len, output_len))
    return [
        BenchmarkRequest(
            prompt_token_ids=prefix + rng.integers(0, vocab_size, size=length).tolist(), output_len=output_length
        )
        for length, output_length in zip(input_lens, output_lens, strict=True)
    ]


def _lengths(rng: np.random.Generator, mean: int, range_ratio: float, count: int) -> list[int]:
    low, high = int(mean * (1 - range_ratio)), int(mean * (1 + range_ratio))
    return rng.integers(max(low, 1), high, size=count, endpoint=True).tolist()


def as_token_ids(requests: list[BenchmarkRequest]) -> list[ServingRequest]:
    """For endpoints that take token ids, so that the lengths are exact."""
    return [
        ServingRequest(
            prompt=request.prompt_token_ids, prompt_len=len(request.prompt_token_ids), output_len=request.output_len
        )
        for request in requests
    ]


def as_texts(requests: list[BenchmarkRequest], decode: Callable[[list[int]], str]) -> list[ServingRequest]:
    """For endpoints that take text; what a server makes of decoded random tokens may differ in length a little."""
    return [
        ServingRequest(
            prompt=decode(request.prompt_token_ids) if request.text is None else request.text,
            prompt_len=len(request.prompt_token_ids),
            output_len=request.output_len,
        )
        for request in requests
    ]


def custom_requests(
    *,
    path: str | Path,
    render: Callable[[str], str | list[int]],
    num_requests: int,
    output_len: int,
    seed: int,
    is_shuffled: bool = True,
) -> list[ServingRequest]:
    """Prompts of a JSONL file whose lines hold `prompt`; `output_len` -1 takes each line's `output_tokens`.

    `render` makes of a prompt what is sent: the text itself, or the token ids behind a chat template.
    """
    rows = _read_rows(Path(path))
    if len(rows) < num_requests:
        raise ValidationError(
            f"{path} has {len(rows)} prompts, expected at least {num_requests} (num_prompts)", parameter="num_prompts"
        )
    if is_shuffled:
        random.Random(seed).shuffle(rows)
    prompts = [render(_field(path, row, "prompt", str)) for row in rows[:num_requests]]
    return [
        ServingRequest(
            prompt=prompt,
            prompt_len=None if isinstance(prompt, str) else len(prompt),
            output_len=_field(path, row, "output_tokens", int) if output_len == -1 else output_len,
        )
        for prompt, row in zip(prompts, rows, strict=False)
    ]


def _read_rows(path: Path) -> list[Any]:
    if not path.is_file():
        raise ValidationError(f"dataset_path must be a JSONL file, got {path}", parameter="dataset_path")
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        return [json.loads(line) for line in lines if line.strip()]
    except ValueError as error:
        raise ValidationError(
            f"{path} must hold one JSON object per line ({error})", parameter="dataset_path"
        ) from None


def _field[T](path: str | Path, row: Any, name: str, kind: type[T]) -> T:
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind):
        raise ValidationError(
            f"{path} must have {name!r} ({kind.__name__}) in every line, got {json.dumps(row)[:80]}",
            parameter="dataset_path",
        )
    return value
