"""From parsed prompts to requests that passed every check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jaxllm.frontend.arguments import check_params, per_prompt
from jaxllm.frontend.progress import BarFactory, ProgressBar
from jaxllm.frontend.prompts import tokenize_prompts
from jaxllm.inputs import ParsedPrompt, TokenizationOptions
from jaxllm.sampling_params import RequestOutputKind, SamplingParams
from jaxllm.validation import check_int

if TYPE_CHECKING:
    from jaxllm.frontend.frontend import Frontend, PreparedRequest


def prepare_call(
    frontend: Frontend,
    parsed: Sequence[ParsedPrompt],
    sampling_params: SamplingParams | Sequence[SamplingParams] | None,
    options: TokenizationOptions,
    use_tqdm: bool | BarFactory,
    priority: int | Sequence[int] | None,
    *,
    is_final_only: bool,
) -> list[PreparedRequest]:
    """The requests of a call whose parameters are one value or one per prompt, under a bar.

    `is_final_only` is for callers that get each output once, when it is complete.
    """
    given = frontend.default_sampling_params if sampling_params is None else sampling_params
    params = per_prompt("sampling_params", given, len(parsed), check_params)
    priorities = per_prompt("priority", 0 if priority is None else priority, len(parsed), check_int)
    if is_final_only:
        params = _final_only(params)
    with ProgressBar(use_tqdm, total=len(parsed), description="Rendering prompts") as bar:
        return prepare_requests(frontend, parsed, params, priorities, options, bar.advance)


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


def _final_only(params: Sequence[SamplingParams]) -> list[SamplingParams]:
    """Clones, one for each of the given objects, however many prompts share it."""
    final = {id(one): one.clone(output_kind=RequestOutputKind.FINAL_ONLY) for one in params}
    return [final[id(one)] for one in params]
