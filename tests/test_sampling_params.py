"""Sampling parameters: what is accepted, what it becomes, and what each refusal says."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest

from jaxllm.errors import ValidationError
from jaxllm.sampling_params import UNSUPPORTED_DEFAULTS, RequestOutputKind, SamplingParams


def test_defaults_are_vllms():
    params = SamplingParams()
    assert (params.n, params.temperature, params.top_p, params.top_k, params.min_p) == (1, 1.0, 1.0, 0, 0.0)
    assert (params.presence_penalty, params.frequency_penalty, params.repetition_penalty) == (0.0, 0.0, 1.0)
    assert (params.max_tokens, params.min_tokens, params.seed, params.stop, params.stop_token_ids) == (
        16,
        0,
        None,
        [],
        [],
    )
    assert (params.logprobs, params.prompt_logprobs, params.logit_bias, params.allowed_token_ids) == (None,) * 4
    assert (params.detokenize, params.skip_special_tokens, params.spaces_between_special_tokens) == (True,) * 3
    assert (params.ignore_eos, params.include_stop_str_in_output, params.skip_clone) == (False,) * 3
    assert (params.bad_words, params.output_kind) == ([], RequestOutputKind.CUMULATIVE)


@pytest.mark.parametrize(
    ("given", "became"),
    [
        ({"temperature": 0, "top_p": 0.5, "top_k": 9, "min_p": 0.2}, {"top_p": 1.0, "top_k": 0, "min_p": 0.0}),
        ({"temperature": 9e-6}, {"temperature": 0.0}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 10**30}, {"top_k": 2**31 - 1}),
        ({"seed": -1}, {"seed": None}),
        ({"seed": np.int64(5)}, {"seed": 5}),
        ({"stop": "x"}, {"stop": ["x"]}),
        ({"stop": ("a", "b")}, {"stop": ["a", "b"]}),
        (
            {"stop": None, "stop_token_ids": None, "bad_words": None},
            {"stop": [], "stop_token_ids": [], "bad_words": []},
        ),
        ({"stop_token_ids": [3, 1, 3]}, {"stop_token_ids": [3, 1]}),
        ({"stop_token_ids": np.array([3, 1])}, {"stop_token_ids": [3, 1]}),
        ({"logprobs": True, "prompt_logprobs": False}, {"logprobs": 1, "prompt_logprobs": None}),
        ({"logprobs": -1}, {"logprobs": -1}),
        ({"prompt_logprobs": 0}, {"prompt_logprobs": 0, "skip_reading_prefix_cache": True}),
        ({"skip_reading_prefix_cache": None}, {"skip_reading_prefix_cache": False}),
        ({"max_tokens": None}, {"max_tokens": None}),
        ({"temperature": np.float32(0.5), "top_k": np.int32(3)}, {"temperature": 0.5, "top_k": 3}),
        ({"logit_bias": {"7": 1, np.int64(8): 2.0}}, {"logit_bias": {7: 1.0, 8: 2.0}}),
        ({"allowed_token_ids": range(3)}, {"allowed_token_ids": [0, 1, 2]}),
        ({"temperature": 0, "seed": 3}, {"seed": 3}),
    ],
)
def test_normalises(given, became):
    params = SamplingParams(**given)
    assert {name: getattr(params, name) for name in became} == became


def test_tiny_temperature_is_raised_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert SamplingParams(temperature=0.005).temperature == 0.01
    assert "temperature 0.005 is raised to 0.01" in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 0}, r"n must be an integer from 1 to 16384, got 0 \(int\)"),
        ({"n": 16385}, "n must be an integer from 1 to 16384, got 16385"),
        ({"n": True}, r"n must be an integer from 1 to 16384, got True \(bool\)"),
        ({"n": 2, "temperature": 0}, "n must be 1 when temperature is 0 .* got 2"),
        ({"temperature": -0.1}, "temperature must be a finite number from 0.0 to 2.0, got -0.1"),
        ({"temperature": 2.1}, "temperature must be a finite number from 0.0 to 2.0, got 2.1"),
        ({"temperature": float("nan")}, "temperature must be a finite number from 0.0 to 2.0, got nan"),
        ({"temperature": "hot"}, r"temperature must be a finite number .* got 'hot' \(str\)"),
        ({"temperature": None}, "temperature must be a finite number .* got None"),
        ({"temperature": 10**400}, "temperature must be a finite number"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, got 0"),
        ({"top_p": 1.01}, "top_p must be a finite number from 0.0 to 1.0, got 1.01"),
        ({"top_p": 0, "temperature": 0}, "top_p must be above 0"),
        ({"top_k": -2}, "top_k must be an integer of at least -1, got -2"),
        ({"top_k": 5.0}, r"top_k must be an integer of at least -1, got 5.0 \(float\)"),
        ({"min_p": -0.1}, "min_p must be a finite number from 0.0 to 1.0, got -0.1"),
        ({"presence_penalty": 2.5}, "presence_penalty must be a finite number from -2.0 to 2.0, got 2.5"),
        ({"frequency_penalty": -3}, "frequency_penalty must be a finite number from -2.0 to 2.0, got -3"),
        ({"repetition_penalty": 0}, "repetition_penalty must be above 0, got 0"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty must be a finite number of at least 0.0, got inf"),
        ({"seed": 2**64}, "seed must be an integer from"),
        ({"seed": 1.5}, r"seed must be an integer .* got 1.5 \(float\)"),
        ({"stop": ""}, r"stop\[0\] must be a string that is not empty, got ''"),
        ({"stop": ["a", 3]}, r"stop\[1\] must be a string that is not empty, got 3"),
        ({"stop": 3}, "stop must be a string or a list of strings, got 3"),
        ({"stop": "x", "detokenize": False}, "stop strings are found in the text: detokenize must be True"),
        ({"stop_token_ids": [-1]}, r"stop_token_ids\[0\] must be an integer of at least 0, got -1"),
        ({"stop_token_ids": 3}, "stop_token_ids must be a list of token ids, got 3"),
        ({"ignore_eos": 1}, r"ignore_eos must be a bool, got 1 \(int\)"),
        ({"max_tokens": 0}, "max_tokens must be an integer of at least 1, got 0"),
        ({"max_tokens": 16.0}, "max_tokens must be an integer of at least 1, got 16.0"),
        ({"min_tokens": -1}, "min_tokens must be an integer from 0 to 2147483647, got -1"),
        ({"min_tokens": 5, "max_tokens": 4}, r"min_tokens must be at most max_tokens \(4\), got 5"),
        ({"logprobs": -2}, "logprobs must be an integer of at least -1, got -2"),
        ({"prompt_logprobs": 1.0}, "prompt_logprobs must be an integer of at least -1, got 1.0"),
        ({"detokenize": None}, "detokenize must be a bool, got None"),
        ({"skip_special_tokens": "no"}, "skip_special_tokens must be a bool, got 'no'"),
        ({"spaces_between_special_tokens": 0}, "spaces_between_special_tokens must be a bool, got 0"),
        ({"include_stop_str_in_output": []}, "include_stop_str_in_output must be a bool"),
        ({"skip_clone": 1}, "skip_clone must be a bool"),
        ({"output_kind": "delta"}, "output_kind must be a RequestOutputKind, got 'delta'"),
        ({"stream_interval": 0}, "stream_interval must be an integer of at least 1, got 0"),
        ({"logit_bias": [1]}, "logit_bias must be a mapping from token id to bias"),
        ({"logit_bias": {"a": 1}}, "logit_bias key must be an integer of at least 0, got 'a'"),
        ({"logit_bias": {-1: 1}}, "logit_bias key must be an integer of at least 0, got -1"),
        ({"logit_bias": {3: float("nan")}}, r"logit_bias\[3\] must be a finite number, got nan"),
        ({"allowed_token_ids": []}, "allowed_token_ids must hold at least one token id, got none"),
        ({"allowed_token_ids": "ab"}, "allowed_token_ids must be a list of token ids, got 'ab'"),
        ({"bad_words": [""]}, r"bad_words\[0\] must be a string that is not empty"),
        ({"bad_words": "word"}, "bad_words must be a list of strings, got 'word'"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens must be at least 1, or -1 for as many as fit, got 0"),
        ({"skip_reading_prefix_cache": 1}, "skip_reading_prefix_cache must be a bool, got 1"),
    ],
)
def test_refuses(given, message):
    with pytest.raises(ValidationError, match=message):
        SamplingParams(**given)


@pytest.mark.parametrize("name", UNSUPPORTED_DEFAULTS)
def test_unsupported_field_is_refused_unless_default(name):
    assert getattr(SamplingParams(**{name: UNSUPPORTED_DEFAULTS[name]}), name) == UNSUPPORTED_DEFAULTS[name]
    with pytest.raises(ValidationError, match=f"{name} is not supported yet: leave it at") as caught:
        SamplingParams(**{name: 7})
    assert caught.value.parameter == name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"best_of": 3, "n": 2}, r"best_of is no longer supported, got 3: .* set n"),
        ({"use_beam_search": True}, "use_beam_search is no longer supported, got True: call beam_search instead"),
        ({"early_stopping": True}, "early_stopping is no longer supported, got True: it belongs to beam search"),
        ({"logits_processors": [len]}, "logits_processors is no longer supported, .* use logit_bias"),
        ({"guided_decoding": {"json": {}}}, "guided_decoding was replaced by structured_outputs"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_legacy_field_that_would_change_results_is_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        SamplingParams(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"best_of": 2, "n": 2},
        {"use_beam_search": False},
        {"early_stopping": False},
        {"logits_processors": []},
    ],
)
def test_harmless_legacy_field_warns_at_the_caller(given):
    with pytest.warns(DeprecationWarning, match="is deprecated") as caught:
        SamplingParams(**given)
    assert caught[0].filename == __file__


def test_unknown_keyword_is_a_type_error_that_names_it():
    with pytest.raises(TypeError, match="temprature"):
        SamplingParams(temprature=1.0)  # type: ignore[call-arg]


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError, match="max_tokens"):
        SamplingParams().max_tokens = 5  # type: ignore[misc]


def test_clone_changes_and_checks():
    params = SamplingParams(stop=["x"], max_tokens=5)
    assert params.clone() == params
    assert params.clone(max_tokens=6).max_tokens == 6
    with pytest.raises(ValidationError, match="max_tokens must be an integer of at least 1, got 0"):
        params.clone(max_tokens=0)


def test_lists_are_copied():
    stop = ["x"]
    params = SamplingParams(stop=stop)
    stop.append("y")
    assert params.stop == ["x"]


def test_from_optional_takes_none_as_default_and_clamps_biases():
    params = SamplingParams.from_optional(temperature=None, top_p=None, max_tokens=None, logit_bias={"5": 400, 6: -400})
    assert (params.temperature, params.top_p, params.max_tokens) == (1.0, 1.0, None)
    assert params.logit_bias == {5: 100.0, 6: -100.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stop_token_ids": [10]}, r"stop_token_ids must hold token ids below the vocabulary size 10, got \[10\]"),
        ({"allowed_token_ids": [1, 12]}, r"allowed_token_ids must hold token ids below .* 10, got \[12\]"),
        ({"logit_bias": {99: 1}}, r"logit_bias must hold token ids below .* 10, got \[99\]"),
        ({"logprobs": 5}, "logprobs must be at most max_logprobs, which this engine sets to 4, got 5"),
        ({"prompt_logprobs": -1}, r"prompt_logprobs must be at most max_logprobs, .* got -1 \(10 tokens\)"),
    ],
)
def test_verify_refuses_what_the_model_or_engine_cannot(given, message):
    with pytest.raises(ValidationError, match=message):
        SamplingParams(**given).verify(vocab_size=10, max_logprobs=4)


def test_verify_allows_whole_vocabulary_when_uncapped():
    SamplingParams(logprobs=-1, prompt_logprobs=10).verify(vocab_size=10, max_logprobs=-1)


def test_verify_counts_all_logit_edits():
    params = SamplingParams(logit_bias=dict.fromkeys(range(500), 1.0), min_tokens=1)
    params.verify(vocab_size=1000, num_end_token_ids=4, num_bad_word_ids=8)
    with pytest.raises(ValidationError, match="must together have at most 512 entries, got 513"):
        params.verify(vocab_size=1000, num_end_token_ids=5, num_bad_word_ids=8)
    params.clone(min_tokens=0).verify(vocab_size=1000, num_end_token_ids=5, num_bad_word_ids=8)


def test_verify_limits_bad_words():
    with pytest.raises(ValidationError, match="bad_words must give at most 128 token sequences, got 129"):
        SamplingParams().verify(vocab_size=10, num_bad_word_ids=129)
