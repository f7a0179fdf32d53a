"""Requests made from real conversations in the ShareGPT format."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxllm.bench.workload import BenchmarkRequest
from jaxllm.errors import ValidationError

MIN_LEN = 4
"""Shorter prompts and replies are left out, as they say little about a server."""
MAX_PROMPT_LEN = 1024
MAX_TOTAL_LEN = 2048


def sharegpt_requests(
    *,
    path: str | Path,
    encode: Callable[[str], list[int]],
    num_requests: int,
    output_len: int | None,
    seed: int,
) -> list[BenchmarkRequest]:
    """Prompts are first turns, in an order drawn from `seed`.

    The output is as long as the reply in the data, or `output_len` if given. A file that was cut off is read as
    far as it is whole.
    """
    turns = list(_first_turns(Path(path)))
    random.Random(seed).shuffle(turns)
    requests: list[BenchmarkRequest] = []
    for prompt, reply in turns:
        if len(requests) == num_requests:
            break
        prompt_token_ids = encode(prompt)
        reply_len = output_len if output_len is not None else len(encode(reply))
        if _is_usable(len(prompt_token_ids), reply_len, has_fixed_output=output_len is not None):
            requests.append(BenchmarkRequest(prompt_token_ids=prompt_token_ids, output_len=reply_len, text=prompt))
    if len(requests) < num_requests:
        raise ValidationError(
            f"{path} has {len(requests)} usable conversations, expected at least {num_requests} (num_prompts)",
            parameter="num_prompts",
        )
    return requests


def _is_usable(prompt_len: int, reply_len: int, *, has_fixed_output: bool) -> bool:
    is_long_enough = prompt_len >= MIN_LEN and (has_fixed_output or reply_len >= MIN_LEN)
    return is_long_enough and prompt_len <= MAX_PROMPT_LEN and prompt_len + reply_len <= MAX_TOTAL_LEN


def _first_turns(path: Path) -> Iterator[tuple[str, str]]:
    """The first two turns of each conversation that has them."""
    for entry in _entries(path):
        turns = entry.get("conversations", [])
        if len(turns) >= 2:
            yield turns[0]["value"], turns[1]["value"]


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise ValidationError(f"dataset_path must be a ShareGPT JSON file, got {path}", parameter="dataset_path")
    text = path.read_text(encoding="utf-8")
    decoder = json.JSONDecoder()
    position = text.find("[") + 1
    if position == 0:
        raise ValidationError(f"{path} must hold a JSON list of conversations, found none", parameter="dataset_path")
    while True:
        position = _skip_separators(text, position)
        try:
            entry, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError:
            return  # the closing bracket, or the place where a truncated file ends
        yield entry


def _skip_separators(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n,":
        position += 1
    return position
