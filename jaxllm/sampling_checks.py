"""Checks of single sampling parameters that are more than a number in a range."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jaxllm.errors import ValidationError
from jaxllm.validation import check_float, check_int, check_list, fail

GREEDY_EPSILON = 1e-5
"""A temperature below this means greedy."""


def check_truncation(name: str, value: Any) -> int:
    """How many last tokens of a prompt to keep: at least 1, or -1 for as many as fit."""
    kept = check_int(name, value, low=-1)
    if kept == 0:
        raise fail(name, "at least 1, or -1 for as many as fit", value)
    return kept


def check_token_ids(name: str, values: Any) -> list[int]:
    """Token ids of at least 0; whether they are in the vocabulary is checked where one is known."""
    return check_list(name, values, lambda item_name, item: check_int(item_name, item, low=0), "a list of token ids")


def check_logprobs(name: str, value: Any) -> int | None:
    """A number of log-probabilities, -1 for the whole vocabulary; True is 1 and False is None."""
    if value is None or value is False:
        return None
    if value is True:
        return 1
    return check_int(name, value, low=-1)


def check_logit_bias(name: str, value: Any) -> dict[int, float]:
    """Finite biases by token id."""
    if not isinstance(value, Mapping):
        raise fail(name, "a mapping from token id to bias", value)
    return {_check_bias_key(name, key): check_float(f"{name}[{key!r}]", bias) for key, bias in value.items()}


def _check_bias_key(name: str, key: Any) -> int:
    """JSON objects have string keys, so a decimal string is fine."""
    if isinstance(key, str) and key.isascii() and key.isdigit():
        return int(key)
    return check_int(f"{name} key", key, low=0)


def check_in_vocabulary(name: str, token_ids: Iterable[int], vocab_size: int) -> None:
    """Every id is below the vocabulary size."""
    outside = [token_id for token_id in token_ids if token_id >= vocab_size]
    if outside:
        raise ValidationError(
            f"{name} must hold token ids below the vocabulary size {vocab_size}, got {outside[:5]}", parameter=name
        )


def check_num_logprobs(name: str, value: int | None, vocab_size: int, limit: int) -> None:
    """At most `limit` log-probabilities are asked for."""
    if value is None:
        return
    wanted = vocab_size if value == -1 else value
    if wanted > limit:
        raise ValidationError(
            f"{name} must be at most max_logprobs, which this engine sets to {limit}, got {value} "
            f"({wanted} tokens); raise max_logprobs to allow it",
            parameter=name,
        )
