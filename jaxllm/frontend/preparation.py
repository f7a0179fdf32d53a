"""From parsed prompts to requests that passed every check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jaxllm.frontend.prompts import tokenize_prompts
from jaxllm.inputs import ParsedPrompt, TokenizationOptions
from jaxllm.sampling_params import SamplingParams

if TYPE_CHECKING:
    from jaxllm.frontend.frontend import Frontend, PreparedRequest


def prepare_requests(
    frontend: Frontend,
    parsed: Sequence[ParsedPrompt],
    params: Sequence[SamplingParams],
    priorities: Sequence[int],
    options: TokenizationOptions,
    on_tokenized: Callable[[int], None] = lambda count: None,
) -> list[PreparedRequest]:
    """One request per prompt; nothing is added yet, so a wrong one leaves nothing behind.

    `on_tokenized` hears how many more prompts are tokenised.
    """
    token_ids = tokenize_prompts(parsed, frontend.tokenizer, options, on_tokenized)
    return [
        frontend.prepare(*request, options, name="prompt" if len(parsed) == 1 else f"prompts[{index}]")
        for index, request in enumerate(zip(parsed, token_ids, params, priorities, strict=True))
    ]
