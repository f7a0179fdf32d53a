"""However its steps are planned, a beam search finds what a plain one on the host finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from jaxllm.beam_search_params import BeamSearchParams
from jaxllm.llm import JaxLLM
from jaxllm.outputs import RequestOutput
from jaxllm.sampling_params import SamplingParams
from tests.integration.helpers import as_prompts, drawn, fewest_pages, found_beams, generate, replanned, start_tiny
from tests.integration.host_beam_search import search_on_host
from tests.references.reference import load_reference

MODELS = ("llama_gqa", "gemma3_two_bases")
"""Gemma has one key-value head and a sliding window."""
WIDTHS = (2, 8, 1, 3, 5)
"""Of the prompts of a reference, which have 1 to 60 tokens."""
NUM_TOKENS = 18
SAMPLED = SamplingParams(temperature=1.0, seed=3, max_tokens=30, ignore_eos=True, detokenize=False)

Found = list[list[tuple[list[int], float]]]


class Searches:
    """A model, prompts, and what the host finds for them.

    Tests run engines of their own on it, whose prefix caches know what lies in the pages.
    """

    def __init__(self, llm: JaxLLM, name: str) -> None:
        self.llm = llm
        self.prompts = load_reference(name).prompts
        self.params = [BeamSearchParams(beam_width=width, max_tokens=NUM_TOKENS, ignore_eos=True) for width in WIDTHS]
        found = [search_on_host(llm, *search) for search in zip(self.prompts, self.params, strict=True)]
        self.margin = min(search.margin for search in found)
        self.expected: Found = [search.beams for search in found]


@pytest.fixture(scope="module", params=MODELS)
def searches(request):
    with start_tiny(request.param) as llm:
        yield Searches(llm, request.param)


def search(llm: JaxLLM, prompts: Sequence[Sequence[int]], params: Sequence[BeamSearchParams]) -> Found:
    """All prompts in one call, each with its own parameters."""
    return completions(llm.generate(as_prompts(prompts), params, use_tqdm=False))


def completions(outputs: Sequence[RequestOutput]) -> Found:
    return [[(one.token_ids, one.cumulative_logprob or 0.0) for one in output.outputs] for output in outputs]


def check(found: Found, expected: Found) -> None:
    assert [[tokens for tokens, _ in beams] for beams in found] == [[tokens for tokens, _ in each] for each in expected]
    for beams, each in zip(found, expected, strict=True):
        assert [score for _, score in beams] == pytest.approx([score for _, score in each], abs=1e-3)


def test_the_expected_beams_are_firm(searches):
    assert searches.margin > 1e-4


def test_all_searches_in_one_call(searches):
    llm = replanned(searches.llm)
    check(search(llm, searches.prompts, searches.params), searches.expected)
    metrics = llm.get_metrics()
    assert metrics.num_generation_tokens == sum(WIDTHS) * NUM_TOKENS
    assert dict(metrics.finished_by_reason) == {"length": len(WIDTHS)}
    assert (metrics.num_running, metrics.num_waiting, metrics.kv_cache_usage) == (0, 0, 0.0)


def test_each_search_alone(searches):
    llm = replanned(searches.llm)
    found = [
        found_beams(llm.beam_search(as_prompts([p]), q)[0])
        for p, q in zip(searches.prompts, searches.params, strict=True)
    ]
    check(found, searches.expected)


def test_prefix_cache(searches):
    llm = replanned(searches.llm)
    for _ in range(2):
        outputs = llm.generate(as_prompts(searches.prompts), searches.params, use_tqdm=False)
        check(completions(outputs), searches.expected)
    assert [output.num_cached_tokens for output in outputs] == [(len(p) - 1) // 16 * 16 for p in searches.prompts]


def test_prefix_cache_off(searches):
    llm = replanned(searches.llm, enable_prefix_caching=False)
    check(search(llm, searches.prompts, searches.params), searches.expected)


@pytest.mark.parametrize("chunk_size", [7, 1])
def test_chunks(searches, chunk_size):
    check(search(replanned(searches.llm, chunk_size=chunk_size), searches.prompts, searches.params), searches.expected)


def test_preemption(searches):
    """Each of the searches fits in the cache, and the two do not."""
    prompts, params = searches.prompts[3:], [BeamSearchParams(4, 30, ignore_eos=True)] * 2
    expected = search(replanned(searches.llm), prompts, params)
    llm = replanned(searches.llm, num_pages=fewest_pages(searches.llm) + 10)
    check(search(llm, prompts, params), expected)
    metrics = llm.get_metrics()
    assert metrics.num_preemptions > 0
    assert metrics.kv_cache_usage == 0.0


def test_beside_sampled_requests(searches):
    llm = replanned(searches.llm)
    alone = drawn(generate(llm, searches.prompts, SAMPLED))
    pairs = [pair for params in searches.params for pair in (params, SAMPLED)]
    prompts = [prompt for prompt in searches.prompts for _ in range(2)]
    outputs = llm.generate(as_prompts(prompts), pairs, use_tqdm=False)
    check(completions(outputs[::2]), searches.expected)
    assert drawn(outputs[1::2]) == alone


@pytest.mark.parametrize(
    ("changes", "num_ended"),
    [
        ({"length_penalty": 0.0}, {4}),
        ({"length_penalty": 2.0}, {0, 1}),
        ({"ignore_eos": True, "length_penalty": 0.0}, {0}),
    ],
)
def test_beams_that_end(searches, changes: dict[str, Any], num_ended: set[int]):
    """With EOS tokens that are likely, which the tiny models' own are not."""
    llm, prompt = replanned(searches.llm), searches.prompts[1]
    end_ids = {tokens[3] for tokens, _ in searches.expected[1]}
    built = llm._built
    model_config = dataclasses.replace(built.model_config, eos_token_ids=tuple(end_ids))
    llm = JaxLLM.from_built(dataclasses.replace(built, model_config=model_config))
    params = BeamSearchParams(**({"beam_width": 4, "max_tokens": NUM_TOKENS} | changes))
    expected = search_on_host(llm, prompt, params, () if params.ignore_eos else end_ids)
    assert expected.margin > 1e-5
    (output,) = llm.beam_search(as_prompts([prompt]), params)
    check([found_beams(output)], [expected.beams])
    reasons = [sequence.completion.finish_reason for sequence in output.sequences]
    is_ended = [tokens[-1] in end_ids and not params.ignore_eos for tokens, _ in expected.beams]
    assert reasons == ["stop" if ended else "length" for ended in is_ended]
    assert sum(is_ended) in num_ended


def test_a_search_up_to_the_length_of_the_model(searches):
    prompt = searches.prompts[-1]
    params = BeamSearchParams(beam_width=2, max_tokens=1000, ignore_eos=True)
    llm = replanned(searches.llm)
    (output,) = llm.beam_search(as_prompts([prompt]), params)
    assert [len(sequence.tokens) for sequence in output.sequences] == [llm.max_model_len] * 2


def test_allowed_tokens_keep_their_log_probabilities(searches):
    llm, prompt = replanned(searches.llm), searches.prompts[2]
    plain = search_on_host(llm, prompt, BeamSearchParams(beam_width=8, max_tokens=1)).beams
    allowed = [tokens[0] for tokens, _ in plain[1::3]]
    params = BeamSearchParams(beam_width=2, max_tokens=1, ignore_eos=True, allowed_token_ids=allowed)
    (output,) = llm.beam_search(as_prompts([prompt]), params)
    check([found_beams(output)], [[plain[1], plain[4]]])
    (position,) = output.sequences[0].logprobs
    assert [(token_id, entry.rank) for token_id, entry in position.items()] == list(
        zip(allowed, (2, 5, 8), strict=True)
    )


def test_temperature_divides_the_logits(searches):
    """As of the sampler, whose processed log-probabilities are those of the divided logits."""
    llm, prompt = replanned(searches.llm), searches.prompts[2]
    (cold,) = llm.beam_search(as_prompts([prompt]), BeamSearchParams(2, 1, temperature=0.5))
    (plain,) = llm.beam_search(as_prompts([prompt]), BeamSearchParams(2, 1))
    gaps = [beams[0][1] - beams[1][1] for beams in (found_beams(cold), found_beams(plain))]
    assert gaps[0] == pytest.approx(2 * gaps[1], abs=1e-4)
    assert [tokens for tokens, _ in found_beams(cold)] == [tokens for tokens, _ in found_beams(plain)]


def test_two_devices():
    with start_tiny("llama_gqa", tensor_parallel_size=2) as llm:
        searches = Searches(llm, "llama_gqa")
        assert searches.margin > 1e-4
        check(search(llm, searches.prompts, searches.params), searches.expected)
