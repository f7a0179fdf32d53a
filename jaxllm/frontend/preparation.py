"""From parsed prompts to requests that passed every check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jaxllm.beam_search_params import BeamSearchParams
from jaxllm.frontend.arguments import AnyParams, check_any_params, check_params, check_search_params, per_prompt
from jaxllm.frontend.progress import BarFactory, ProgressBar
from jaxllm.frontend.prompts import tokenize_prompts
from jaxllm.inputs import ParsedPrompt, TokenizationOptions
from jaxllm.sampling_params import RequestOutputKind, SamplingParams
from jaxllm.validation import check_int

if TYPE_CHECKING:
    from jaxllm.frontend.frontend import Frontend
    from jaxllm.frontend.request_maker import Prepared


def prepare_call(
    frontend: Frontend,
    parsed: Sequence[ParsedPrompt],
    sampling_params: AnyParams | Sequence[AnyParams] | None,
    options: TokenizationOptions,
    use_tqdm: bool | BarFactory,
    priority: int | Sequence[int] | None,
    *,
    is_final_only: bool,
) -> list[Prepared]:
    """The requests of a call whose parameters are one value or one per prompt, under a bar.

    `is_final_only` is for callers that get each output once, when it is complete; only they may ask for beam searches.
    """
    given = frontend.default_sampling_params if sampling_params is None else sampling_params
    params: Sequence[AnyParams]
    if is_final_only:
        params = _final_only(per_prompt("sampling_params", given, len(parsed), check_any_params))
    else:
        params = per_prompt("sampling_params", given, len(parsed), check_params)
    priorities = _priorities(priority, len(parsed))
    with ProgressBar(use_tqdm, total=len(parsed), description="Rendering prompts") as bar:
        return prepare_requests(frontend, parsed, params, priorities, options, bar.advance)


def prepare_searches(
    frontend: Frontend,
    parsed: Sequence[ParsedPrompt],
    params: BeamSearchParams,
    priority: int | Sequence[int] | None,
) -> list[Prepared]:
    """A beam search for each prompt."""
    checked = check_search_params("params", params)
    priorities = _priorities(priority, len(parsed))
    return prepare_requests(frontend, parsed, [checked] * len(parsed), priorities, TokenizationOptions())


def prepare_requests(
    frontend: Frontend,
    parsed: Sequence[ParsedPrompt],
    params: Sequence[AnyParams],
    priorities: Sequence[int],
    options: TokenizationOptions,
    on_tokenized: Callable[[int], None] = lambda count: None,
) -> list[Prepared]:
    """One request per prompt; nothing is added yet, so a wrong one leaves nothing behind.

    `on_tokenized` hears how many more prompts are tokenised.
    """
    names = ["prompt"] if len(parsed) == 1 else [f"prompts[{index}]" for index in range(len(parsed))]
    for name, prompt, one in zip(names, parsed, params, strict=True):
        frontend.check_text(prompt, one, options, name=name)
    token_ids = tokenize_prompts(parsed, frontend.tokenizer, options, on_tokenized)
    prepared: list[Prepared] = []
    for name, prompt, ids, one, number in zip(names, parsed, token_ids, params, priorities, strict=True):
        if isinstance(one, BeamSearchParams):
            prepared.append(frontend.prepare_beam_search(prompt, ids, one, number, options, name=name))
        else:
            prepared.append(frontend.prepare(prompt, ids, one, number, options, name=name))
    return prepared


def _priorities(priority: int | Sequence[int] | None, count: int) -> list[int]:
    return per_prompt("priority", 0 if priority is None else priority, count, check_int)


def _final_only(params: Sequence[AnyParams]) -> list[AnyParams]:
    """Clones, one for each of the given objects, however many prompts share it."""
    final = {
        id(one): one.clone(output_kind=RequestOutputKind.FINAL_ONLY) if isinstance(one, SamplingParams) else one
        for one in params
    }
    return [final[id(one)] for one in params]
