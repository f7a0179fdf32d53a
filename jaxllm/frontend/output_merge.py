"""Joins outputs of one request that nobody has read yet."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxllm.outputs import CompletionOutput, RequestOutput


def merge_deltas(waiting: RequestOutput, newer: RequestOutput) -> RequestOutput:
    """One DELTA output that says what both say; takes over the lists of `waiting`."""
    completions = {completion.index: completion for completion in waiting.outputs}
    for completion in newer.outputs:
        before = completions.get(completion.index)
        completions[completion.index] = completion if before is None else _merge_completions(before, completion)
    return dataclasses.replace(
        newer,
        outputs=[completions[index] for index in sorted(completions)],
        prompt_logprobs=_joined(waiting.prompt_logprobs, newer.prompt_logprobs),
    )


def _merge_completions(waiting: CompletionOutput, newer: CompletionOutput) -> CompletionOutput:
    return dataclasses.replace(
        newer,
        text=waiting.text + newer.text,
        token_ids=_joined(waiting.token_ids, newer.token_ids),
        logprobs=_joined(waiting.logprobs, newer.logprobs),
    )


def _joined[Items: list[Any] | None](waiting: Items, newer: Items) -> Items:
    if waiting is None or newer is None:
        return newer
    waiting.extend(newer)  # in place: a reader that never reads would else make this quadratic
    return waiting
