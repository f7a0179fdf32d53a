"""Beam search parameters: what is accepted, what it becomes, and what each refusal says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxllm import BeamSearchParams
from jaxllm.errors import ValidationError


def test_defaults_are_vllms():
    assert dataclasses.asdict(BeamSearchParams(beam_width=5, max_tokens=50)) == {
        "beam_width": 5,
        "max_tokens": 50,
        "ignore_eos": False,
        "temperature": 0.0,
        "length_penalty": 1.0,
        "include_stop_str_in_output": False,
        "structured_outputs": None,
        "skip_special_tokens": True,
        "watermarking": None,
        "allowed_token_ids": None,
    }


def test_it_is_where_users_of_vllm_import_it_from():
    from jaxllm.sampling_params import BeamSearchParams as imported

    assert imported is BeamSearchParams


def test_width_and_length_may_be_positional():
    assert BeamSearchParams(5, 50) == BeamSearchParams(beam_width=5, max_tokens=50)


def test_normalises():
    params = BeamSearchParams(
        np.int64(3), np.int32(4), temperature=1, length_penalty=np.float32(0.5), allowed_token_ids=np.array([3, 1])
    )
    assert (params.beam_width, params.max_tokens, params.temperature) == (3, 4, 1.0)
    assert (params.length_penalty, params.allowed_token_ids) == (0.5, [3, 1])
    assert type(params.beam_width) is int


@pytest.mark.parametrize(("temperature", "divisor"), [(0.0, 1.0), (9e-6, 1.0), (1.0, 1.0), (0.5, 0.5), (2.0, 2.0)])
def test_temperature_divides_the_logits_unless_it_is_zero(temperature, divisor):
    assert BeamSearchParams(1, 1, temperature=temperature).logits_divisor == divisor


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beam_width": 0}, "beam_width must be an integer of at least 1, got 0"),
        ({"beam_width": 2.0}, "beam_width must be an integer of at least 1, got 2.0"),
        ({"max_tokens": 0}, "max_tokens must be an integer of at least 1, got 0"),
        ({"max_tokens": None}, "max_tokens must be an integer of at least 1, got None"),
        ({"ignore_eos": 1}, "ignore_eos must be a bool, got 1"),
        ({"temperature": -0.1}, "temperature must be a finite number from 0.0 to 2.0, got -0.1"),
        ({"temperature": 2.1}, "temperature must be a finite number from 0.0 to 2.0, got 2.1"),
        ({"length_penalty": float("inf")}, "length_penalty must be a finite number, got inf"),
        ({"include_stop_str_in_output": "no"}, "include_stop_str_in_output must be a bool"),
        ({"skip_special_tokens": None}, "skip_special_tokens must be a bool, got None"),
        ({"allowed_token_ids": []}, "allowed_token_ids must hold at least one token id, got none"),
        ({"allowed_token_ids": [-1]}, r"allowed_token_ids\[0\] must be an integer of at least 0, got -1"),
        ({"structured_outputs": {"json": {}}}, "structured_outputs is not supported yet in a beam search"),
        ({"watermarking": "x"}, "watermarking is not supported yet in a beam search"),
    ],
)
def test_wrong_value(given, message):
    with pytest.raises(ValidationError, match=message) as caught:
        BeamSearchParams(**({"beam_width": 2, "max_tokens": 2} | given))
    assert caught.value.parameter == next(iter(given)).partition("[")[0] or "[" in message


def test_missing_length():
    with pytest.raises(TypeError, match="max_tokens"):
        BeamSearchParams(beam_width=3)  # type: ignore[call-arg]


def test_verify_accepts_half_of_max_logprobs():
    params = BeamSearchParams(10, 1, allowed_token_ids=[9])
    params.verify(vocab_size=10)
    params.verify(vocab_size=10, max_logprobs=-1)
    with pytest.raises(ValidationError, match=r"beam_width must be at most 9, half of .* 19, got 10; raise .* to 20"):
        params.verify(vocab_size=10, max_logprobs=19)


def test_verify_knows_the_vocabulary():
    with pytest.raises(ValidationError, match="allowed_token_ids must hold token ids below the vocabulary size 10"):
        BeamSearchParams(2, 1, allowed_token_ids=[10]).verify(vocab_size=10)


def test_clone_checks_again():
    params = BeamSearchParams(2, 3).clone(max_tokens=4)
    assert (params.beam_width, params.max_tokens) == (2, 4)
    with pytest.raises(ValidationError, match="beam_width"):
        params.clone(beam_width=0)
