from __future__ import annotations

from typing import Any

import pytest

from jaxllm.beam_search_params import BeamSearchParams
from jaxllm.errors import ValidationError
from jaxllm.sampling_params import RequestOutputKind, SamplingParams
from jaxllm.server.protocol.chat import ChatRequest
from jaxllm.server.protocol.completions import CompletionRequest
from jaxllm.server.sampling import SamplingDefaults, beam_params, chat_params, completion_params

NO_DEFAULTS = SamplingDefaults(values={}, max_tokens_limit=None, max_model_len=100)
MESSAGES = [{"role": "user", "content": "hi"}]

VALUES: dict[str, tuple[Any, Any]] = {
    "n": (3, 3),
    "temperature": (0.5, 0.5),
    "top_p": (0.5, 0.5),
    "top_k": (5, 5),
    "min_p": (0.1, 0.1),
    "seed": (7, 7),
    "presence_penalty": (1.0, 1.0),
    "frequency_penalty": (-1.0, -1.0),
    "repetition_penalty": (1.5, 1.5),
    "logit_bias": ({"3": 200.0}, {3: 100.0}),
    "allowed_token_ids": ([1, 2], [1, 2]),
    "bad_words": (["x"], ["x"]),
    "stop": ("x", ["x"]),
    "stop_token_ids": ([4], [4]),
    "include_stop_str_in_output": (True, True),
    "ignore_eos": (True, True),
    "min_tokens": (2, 2),
    "skip_special_tokens": (False, False),
    "spaces_between_special_tokens": (False, False),
    "stream_interval": (4, 4),
}
"""A value of each field, and what it is in SamplingParams."""


def completion(defaults: SamplingDefaults = NO_DEFAULTS, **fields: Any) -> SamplingParams:
    return completion_params(CompletionRequest(prompt="hi", **fields), defaults)


def chat(defaults: SamplingDefaults = NO_DEFAULTS, **fields: Any) -> SamplingParams:
    return chat_params(ChatRequest(messages=MESSAGES, **fields), defaults)


def search(defaults: SamplingDefaults = NO_DEFAULTS, max_tokens: int | None = 5, **fields: Any) -> BeamSearchParams:
    return beam_params(CompletionRequest(prompt="hi", **fields), max_tokens, defaults)


@pytest.mark.parametrize("make", [completion, chat])
@pytest.mark.parametrize("name", VALUES)
def test_field_becomes_a_sampling_parameter(name, make) -> None:
    given, expected = VALUES[name]
    params = make(**{name: given})
    assert getattr(params, name) == expected
    assert getattr(SamplingParams(), name) != expected


@pytest.mark.parametrize("make", [completion, chat])
@pytest.mark.parametrize("name", VALUES)
def test_null_is_the_default(name, make) -> None:
    assert getattr(make(**{name: None}), name) == getattr(SamplingParams(), name)


def test_recommended_values_fill_what_a_request_leaves_open() -> None:
    defaults = SamplingDefaults(values={"temperature": 0.6, "top_p": 0.9}, max_tokens_limit=None, max_model_len=100)
    params = completion(defaults, top_p=0.5)
    assert (params.temperature, params.top_p) == (0.6, 0.5)


def test_recommendation_of_greedy_does_not_hide_its_other_values() -> None:
    defaults = SamplingDefaults(values={"temperature": 0.0, "top_p": 0.9}, max_tokens_limit=None, max_model_len=100)
    assert completion(defaults).top_p == 1.0
    assert completion(defaults, temperature=1.0).top_p == 0.9


def test_lengths_follow_the_rules_of_each_api() -> None:
    recommends = SamplingDefaults(values={"max_tokens": 30}, max_tokens_limit=None, max_model_len=100)
    limits = SamplingDefaults(values={"max_tokens": 30}, max_tokens_limit=30, max_model_len=100)
    assert [completion(one).max_tokens for one in (NO_DEFAULTS, recommends, limits)] == [16, 16, 16]
    assert [chat(one).max_tokens for one in (NO_DEFAULTS, recommends, limits)] == [None, 30, 30]
    assert [chat(one, max_tokens=50).max_tokens for one in (NO_DEFAULTS, recommends, limits)] == [50, 50, 30]


def test_recommended_length_beyond_the_model_is_no_error() -> None:
    recommends = SamplingDefaults(values={"max_tokens": 300}, max_tokens_limit=None, max_model_len=100)
    assert chat(recommends).max_tokens == 300


def test_streams_ask_for_what_is_new() -> None:
    assert completion(stream=True).output_kind is RequestOutputKind.DELTA
    assert completion().output_kind is RequestOutputKind.FINAL_ONLY


def test_logprobs_mean_what_each_api_says() -> None:
    assert (completion(logprobs=3).logprobs, completion().logprobs) == (3, None)
    assert chat(logprobs=True, top_logprobs=3).logprobs == 3
    assert chat(logprobs=True).logprobs == 0
    assert chat(logprobs=False).logprobs is None


def test_echo_needs_the_prompts_logprobs() -> None:
    assert completion(echo=True, logprobs=2).prompt_logprobs == 2
    assert completion(echo=True, logprobs=2, prompt_logprobs=5).prompt_logprobs == 5
    assert completion(echo=True, logprobs=2, prompt_logprobs=-1).prompt_logprobs == -1
    assert completion(echo=True).prompt_logprobs is None


def test_beam_search_takes_its_own_fields() -> None:
    params = search(
        n=4,
        temperature=0.5,
        length_penalty=2.0,
        ignore_eos=True,
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        allowed_token_ids=[1],
    )
    assert params == BeamSearchParams(
        4,
        5,
        temperature=0.5,
        length_penalty=2.0,
        ignore_eos=True,
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        allowed_token_ids=[1],
    )


def test_beam_search_has_defaults_of_its_own() -> None:
    assert search() == BeamSearchParams(1, 5, temperature=1.0)
    assert search(max_tokens=None).max_tokens == 100
    recommends = SamplingDefaults(
        values={"temperature": 0.6, "top_p": 0.9, "max_tokens": 7}, max_tokens_limit=None, max_model_len=100
    )
    assert search(recommends) == BeamSearchParams(1, 5, temperature=0.6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stream", True),
        ("top_p", 0.5),
        ("top_k", 5),
        ("min_p", 0.1),
        ("seed", 7),
        ("presence_penalty", 1.0),
        ("frequency_penalty", 1.0),
        ("repetition_penalty", 1.5),
        ("logit_bias", {"3": 1.0}),
        ("bad_words", ["x"]),
        ("stop", "x"),
        ("stop_token_ids", [4]),
        ("min_tokens", 1),
        ("spaces_between_special_tokens", False),
        ("stream_interval", 4),
        ("prompt_logprobs", 0),
        ("logprobs", 0),
    ],
)
def test_beam_search_refuses_what_it_can_not_apply(name, value) -> None:
    with pytest.raises(ValidationError, match=f"^{name} ") as caught:
        search(**{name: value})
    assert caught.value.parameter == name


def test_beam_search_takes_values_that_ask_for_nothing() -> None:
    neutral = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "stop": [], "min_tokens": 0, "repetition_penalty": 1.0}
    assert search(**neutral) == search()


def test_beams_are_at_least_one() -> None:
    with pytest.raises(ValidationError, match="n must be an integer of at least 1, got 0"):
        search(n=0)
