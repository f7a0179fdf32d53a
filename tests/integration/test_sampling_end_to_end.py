"""Seeded draws depend on the seed alone, and the filters hold, through the whole engine."""

from __future__ import annotations

import pytest

from jaxllm.sampling_params import SamplingParams
from tests.integration.helpers import drawn, fewest_pages, needs_glassllm, replanned

pytestmark = needs_glassllm

PROMPT = "She opened the little door, and looked into a garden with a great many"
PARAMS = SamplingParams(temperature=1.0, top_p=0.95, top_k=200, seed=7, max_tokens=40, ignore_eos=True)
OTHERS = [
    ("Alice", SamplingParams(temperature=0.0, max_tokens=60)),
    ("The Queen", SamplingParams(temperature=1.5, min_p=0.05, max_tokens=35, repetition_penalty=1.3)),
    ("“Who are you?” said the", SamplingParams(temperature=0.7, seed=7, max_tokens=50, logit_bias={5: 4.0})),
]


@pytest.fixture(scope="module")
def alone(glassllm):
    return sample(glassllm, [(PROMPT, PARAMS)])[0]


def sample(llm, requests):
    prompts, params = zip(*requests, strict=True)
    return drawn(llm.generate(list(prompts), list(params), use_tqdm=False))


def test_same_seed_same_tokens(glassllm, alone):
    assert sample(glassllm, [(PROMPT, PARAMS)]) == [alone]
    assert len(alone) == 40


@pytest.mark.parametrize("place", range(4))
def test_neighbours_change_nothing(glassllm, alone, place):
    requests = [*OTHERS[:place], (PROMPT, PARAMS), *OTHERS[place:]]
    assert sample(glassllm, requests)[place] == alone
    assert sample(glassllm, requests[::-1])[3 - place] == alone


def test_waiting_for_a_slot_changes_nothing(glassllm, alone):
    requests = [OTHERS[0], OTHERS[1]] * 6 + [(PROMPT, PARAMS)]
    assert sample(glassllm, requests)[-1] == alone


@pytest.mark.parametrize(
    "plan", [{"enable_prefix_caching": False}, {"chunk_size": 16}, {"chunk_size": 5}, {"chunk_size": 1}]
)
def test_planning_changes_nothing(glassllm, alone, plan):
    llm = replanned(glassllm, **plan)
    assert sample(llm, [OTHERS[0], (PROMPT, PARAMS), OTHERS[1]])[1] == alone


def test_preemption_changes_nothing(glassllm):
    """Penalties count the tokens from before the preemption too."""
    penalties = {"presence_penalty": 0.5, "frequency_penalty": 0.3, "repetition_penalty": 1.2}
    requests = [(f"{PROMPT} {word}", PARAMS.clone(seed=index, **penalties)) for index, word in enumerate("abcdef")]
    small = replanned(glassllm, num_pages=fewest_pages(glassllm))
    assert sample(small, requests) == [sample(glassllm, [request])[0] for request in requests]
    assert small.get_metrics().num_preemptions > 0


def test_seeds_and_places_differ(glassllm, alone):
    others = sample(glassllm, [(PROMPT, PARAMS.clone(seed=seed)) for seed in (8, 9, 2**63)])
    assert len({tuple(tokens) for tokens in [alone, *others]}) == 4
    unseeded = sample(glassllm, [(PROMPT, PARAMS.clone(seed=None))] * 4)
    assert len({tuple(tokens) for tokens in unseeded}) == 4


def test_completions_of_one_prompt(glassllm, alone):
    output = glassllm.generate(PROMPT, PARAMS.clone(n=3), use_tqdm=False)[0]
    token_ids = [completion.token_ids for completion in output.outputs]
    assert [completion.index for completion in output.outputs] == [0, 1, 2]
    assert token_ids[0] == alone
    assert len({tuple(tokens) for tokens in token_ids}) == 3
    again = glassllm.generate([PROMPT, "Alice"], [PARAMS.clone(n=3), OTHERS[0][1]], use_tqdm=False)[0]
    assert [completion.token_ids for completion in again.outputs] == token_ids


@pytest.mark.parametrize("filters", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-6, "top_k": 0}])
def test_the_narrowest_filters_are_greedy(glassllm, filters):
    greedy = sample(glassllm, [(PROMPT, PARAMS.clone(temperature=0.0, seed=None))])
    assert sample(glassllm, [(PROMPT, PARAMS.clone(**filters))]) == greedy


def test_top_k_bounds_the_rank(glassllm):
    params = PARAMS.clone(temperature=2.0, top_k=3, top_p=1.0, logprobs=0)
    outputs = glassllm.generate([PROMPT] * 4, [params.clone(seed=seed) for seed in range(4)], use_tqdm=False)
    ranks = {
        position[token].rank
        for output in outputs
        for position, token in zip(output.outputs[0].logprobs, output.outputs[0].token_ids, strict=True)
    }
    assert ranks == {1, 2, 3}


def test_allowed_token_ids(glassllm):
    allowed = [40, 41, 300, 301, 302]
    tokens = sample(glassllm, [(PROMPT, PARAMS.clone(allowed_token_ids=allowed, top_k=0, top_p=1.0))])[0]
    assert set(tokens) <= set(allowed)
    assert len(set(tokens)) > 1


def test_draws_follow_the_engines_seed(glassllm):
    """An engine with another seed draws otherwise; programs and weights are the same."""
    params = PARAMS.clone(seed=None)
    first, same = (sample(replanned(glassllm), [(PROMPT, params)] * 2) for _ in range(2))
    assert first == same
