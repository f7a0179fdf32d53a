"""What a completion request may not say, and what it is called by."""

from __future__ import annotations

import asyncio

import pytest

from tests.frontend.helpers import ids

PATH = "/v1/completions"


@pytest.mark.parametrize(
    ("fields", "parameter", "message"),
    [
        ({"prompt": None}, "prompt", "prompt must be given and not be empty"),
        ({"prompt": ""}, "prompt", "prompt must be given and not be empty"),
        ({"prompt": []}, "prompt", "prompt must be given and not be empty"),
        ({"prompt": ["a", ""]}, "prompt", "prompt must be given and not be empty"),
        ({"prompt": [-1]}, "prompt", "prompt must hold token ids from 0 to 257, got -1"),
        ({"prompt": [258]}, "prompt", "prompt must hold token ids from 0 to 257, got 258"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "prompt_logprobs can't be streamed"),
        ({"stream_options": {}}, "stream_options", "stream_options needs stream to be true"),
        ({"logprobs": -2}, "logprobs", "logprobs must be an integer of at least -1, got -2 (int)"),
        (
            {"n": 2, "temperature": 0},
            "n",
            "n must be 1 when temperature is 0 (every completion would be the same), got 2",
        ),
        ({"stop": ["a"] * 5}, "stop", "stop must hold at most 4 strings, got 5"),
        ({"priority": 1}, "priority", "priority must be 0 unless scheduling_policy is 'priority', got 1"),
        ({"length_penalty": 2.0}, "length_penalty", "length_penalty needs use_beam_search"),
        ({"prompt": ["a"] * 1000, "n": 17}, "n", "n times the number of prompts must be at most 16384"),
        ({"prompt": ["a"] * 1025}, "prompt", "prompt must hold at most 1024 prompts, got 1025"),
        ({"request_id": "a" * 257}, "request_id", "request_id must have at most 256 characters, got 257"),
    ],
)
def test_wrong_value_is_refused(client, fields, parameter, message) -> None:
    assert client.refusal(PATH, {"prompt": "hi", **fields}) == (message, parameter)


def test_prompt_longer_than_the_context_is_refused(client) -> None:
    message, parameter = client.refusal(PATH, {"prompt": "a" * 64})
    assert message == (
        "This model's maximum context length is 64 tokens, and the prompt has 64: it must leave room for one token "
        "at least"
    )
    assert parameter == "input_tokens"


def test_a_text_that_must_be_too_long_is_refused_before_it_is_tokenised(client) -> None:
    message, parameter = client.refusal(PATH, {"prompt": "a" * 321})
    assert message == (
        "This model's maximum context length is 64 tokens, and the prompt has 321 characters, where no token has more "
        "than 5"
    )
    assert parameter == "input_tokens"
    body = client.complete("a" * 321, truncate_prompt_tokens=5, max_tokens=1)
    assert body["usage"]["prompt_tokens"] == 5


@pytest.mark.parametrize("stream", [False, True])
def test_error_before_the_first_token_is_an_ordinary_one(client, stream) -> None:
    body = {"prompt": "hi", "stream": stream, "allowed_token_ids": [999]}
    message, parameter = client.refusal(PATH, body)
    assert message == "allowed_token_ids must hold token ids below the vocabulary size 258, got [999]"
    assert parameter == "allowed_token_ids"


def test_one_wrong_prompt_of_several_fails_the_request(client) -> None:
    _, parameter = client.refusal(PATH, {"prompt": [ids("hi"), [999]]})
    assert parameter == "prompt"
    assert client.context.admission.num_requests == 0
    assert asyncio.run(client.llm.drain(60))


def test_unknown_model_is_not_found(start) -> None:
    client = start(served_model_name=["one", "two"])
    message, parameter = client.refusal(PATH, {"prompt": "hi", "model": "three"}, 404)
    assert (message, parameter) == ("the model 'three' does not exist; this server has 'one', 'two'", "model")


@pytest.mark.parametrize("name", ["one", "two", "", None])
def test_answer_names_the_first_of_the_models_names(start, name) -> None:
    client = start(served_model_name=["one", "two"])
    assert client.complete("hi", model=name)["model"] == "one"


def test_any_model_name_passes_where_names_are_not_checked(start) -> None:
    client = start(config={"skip_model_name_validation": True})
    assert client.complete("hi", model="three")["model"] == "scripted"


def test_request_id_comes_from_header_or_body(client) -> None:
    response = client.post("/v1/completions", {"prompt": "hi", "request_id": "b"}, headers={"X-Request-Id": "h"})
    assert response.json()["id"] == "cmpl-h"
    assert client.complete("hi")["id"] != client.complete("hi")["id"]


def test_priority_header_wins(start) -> None:
    client = start(scheduling_policy="priority")
    assert client.complete("hi", priority=3)["choices"][0]["text"] == "hi"
    body = {"prompt": "hi", "priority": 1}
    message, parameter = client.refusal(PATH, body, headers={"X-Vllm-Priority": "soon"})
    assert (message, parameter) == ("X-Vllm-Priority must be an integer, got 'soon'", "priority")
    fcfs = start()
    assert fcfs.post(PATH, body, headers={"X-Jaxllm-Priority": "0"}).status_code == 200
