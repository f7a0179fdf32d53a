"""Joins outputs of one request that nobody has read yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxllm.outputs import CompletionOutput, PositionLogprobs, RequestOutput


def merge_deltas(outputs: Sequence[RequestOutput]) -> RequestOutput:
    """One DELTA output that says what all of them say, oldest first."""
    newest = outputs[-1]
    if len(outputs) == 1:
        return newest
    parts: dict[int, list[CompletionOutput]] = {}
    for output in outputs:
        for completion in output.outputs:
            parts.setdefault(completion.index, []).append(completion)
    return dataclasses.replace(
        newest,
        outputs=[_merge_completions(parts[index]) for index in sorted(parts)],
        prompt_logprobs=_merge_prompt_logprobs(outputs),
    )


def _merge_completions(parts: Sequence[CompletionOutput]) -> CompletionOutput:
    newest = parts[-1]
    if len(parts) == 1:
        return newest
    logprobs: list[PositionLogprobs] | None = None
    if newest.logprobs is not None:
        logprobs = [entry for part in parts for entry in part.logprobs or ()]
    return dataclasses.replace(
        newest,
        text="".join(part.text for part in parts),
        token_ids=[token_id for part in parts for token_id in part.token_ids],
        logprobs=logprobs,
    )


def _merge_prompt_logprobs(outputs: Sequence[RequestOutput]) -> list[PositionLogprobs | None] | None:
    if outputs[-1].prompt_logprobs is None:
        return None
    return [entry for output in outputs for entry in output.prompt_logprobs or ()]
