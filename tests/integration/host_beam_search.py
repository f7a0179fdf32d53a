"""A beam search on the host, as slow and plain as its definition, over log-probabilities that `generate` returns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import NamedTuple

from jaxllm.beam_search_params import BeamSearchParams
from jaxllm.llm import JaxLLM
from jaxllm.sampling_params import SamplingParams
from tests.integration.helpers import generate

ScoredTokens = tuple[list[int], float]


class HostSearch(NamedTuple):
    """Results, best first, and the smallest gap between two scores that decided something."""

    beams: list[ScoredTokens]
    margin: float


def search_on_host(
    llm: JaxLLM, prompt: Sequence[int], params: BeamSearchParams, end_ids: Collection[int] = ()
) -> HostSearch:
    """The search of one prompt, a request per beam and token."""
    width = params.beam_width
    live: list[ScoredTokens] = [([], 0.0)]
    ended: list[ScoredTokens] = []
    margins: list[float] = []
    for _ in range(min(params.max_tokens, llm.max_model_len - len(prompt))):
        children: list[ScoredTokens] = []
        prompts = [[*prompt, *tokens] for tokens, _ in live]
        for (tokens, score), logprobs in zip(live, _next_logprobs(llm, prompts, 2 * width), strict=True):
            for token_id, logprob in logprobs:
                (ended if token_id in end_ids else children).append(([*tokens, token_id], score + logprob))
        children.sort(key=lambda beam: -beam[1])
        margins += [one[1] - two[1] for one, two in pairwise(children[: width + 1])]
        live = children[:width]
        if not live:
            break

    def final_score(beam: ScoredTokens) -> float:
        return beam[1] / len(beam[0]) ** params.length_penalty

    results = sorted([*ended, *live], key=final_score, reverse=True)
    margins += [final_score(one) - final_score(two) for one, two in pairwise(results[: width + 1])]
    return HostSearch(results[:width], min(margins))


def _next_logprobs(llm: JaxLLM, prompts: list[list[int]], count: int) -> list[list[tuple[int, float]]]:
    """The likeliest next tokens of each prompt, likeliest first."""
    params = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True, logprobs=count, detokenize=False)
    found = []
    for output in generate(llm, prompts, params):
        assert output.outputs[0].logprobs is not None
        entries = sorted(output.outputs[0].logprobs[0].items(), key=lambda entry: entry[1].rank or 0)
        found.append([(token_id, entry.logprob) for token_id, entry in entries])
    return found
