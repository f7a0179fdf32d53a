from __future__ import annotations

import pytest

from jaxllm.bench.workload import BenchmarkRequest, BenchmarkSampling, random_requests, sampling_params
from jaxllm.errors import ValidationError
from jaxllm.sampling_params import RequestOutputKind


def make_random(seed: int = 0, vocab_size: int = 50) -> list[BenchmarkRequest]:
    return random_requests(num_requests=3, input_len=20, output_len=4, vocab_size=vocab_size, seed=seed)


def test_random_prompts_have_the_asked_number_and_lengths() -> None:
    assert [(len(request.prompt_token_ids), request.output_len) for request in make_random()] == [(20, 4)] * 3


def test_random_prompts_repeat_with_their_seed() -> None:
    assert make_random(seed=1) == make_random(seed=1)
    assert make_random(seed=1) != make_random(seed=2)


def test_random_token_ids_are_plain_integers_of_the_vocabulary() -> None:
    token_ids = [token_id for request in make_random(vocab_size=2) for token_id in request.prompt_token_ids]
    assert set(token_ids) == {0, 1}
    assert {type(token_id) for token_id in token_ids} == {int}


@pytest.mark.parametrize("name", ["num_requests", "input_len", "output_len"])
def test_count_below_one_is_refused(name: str) -> None:
    counts = {"num_requests": 1, "input_len": 1, "output_len": 1} | {name: 0}
    with pytest.raises(ValidationError, match=f"{name} must be at least 1, got 0"):
        random_requests(**counts, vocab_size=10, seed=0)


def test_prompt_is_given_as_token_ids() -> None:
    assert BenchmarkRequest(prompt_token_ids=[1, 2], output_len=3).prompt == {"prompt_token_ids": [1, 2]}


def test_every_request_generates_its_length_whatever_is_drawn() -> None:
    requests = [BenchmarkRequest(prompt_token_ids=[1], output_len=length) for length in (3, 5)]
    params = sampling_params(requests, BenchmarkSampling())
    assert [(one.max_tokens, one.ignore_eos) for one in params] == [(3, True), (5, True)]


def test_sampling_reaches_the_parameters() -> None:
    sampling = BenchmarkSampling(n=2, temperature=0.5, top_p=0.9, top_k=10, detokenize=False)
    params = sampling.params(8, RequestOutputKind.DELTA)
    assert (params.n, params.temperature, params.top_p, params.top_k) == (2, 0.5, 0.9, 10)
    assert (params.detokenize, params.output_kind) == (False, RequestOutputKind.DELTA)
