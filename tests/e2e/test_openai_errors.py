"""The official `openai` client against a real server: what fails, as the exceptions that programs catch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import AuthenticationError, BadRequestError, NotFoundError, OpenAI

from tests.e2e.server_process import ServerProcess

MODEL = "smollm2-135m"
CONVERSATION = [{"role": "user", "content": "Hi"}]
SMALL_LIMITS = ("--max-model-len", "512", "--max-num-seqs", "8", "--max-num-batched-tokens", "64")


@pytest.fixture(scope="module")
def client(smollm2_server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=smollm2_server.base_url, api_key="EMPTY", max_retries=0, timeout=120) as client:
        yield client


@pytest.mark.parametrize(
    ("options", "parameter", "message"),
    [
        ({"temperature": 3}, "temperature", r"temperature must be a finite number from 0\.0 to 2\.0, got 3\.0"),
        ({"temperature": "warm"}, "temperature", "temperature: Input should be a valid number.*got 'warm'"),
        ({"max_tokens": 1000}, "max_tokens", "max_tokens must be at most 512, the model's context length, got 1000"),
        ({"messages": []}, "messages", "messages must hold at least one message, got an empty list"),
        ({"top_logprobs": 2}, "top_logprobs", "top_logprobs needs logprobs to be true"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream_options needs stream to be true"),
        ({"response_format": {"type": "json_object"}}, "response_format", "response_format is not supported yet"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "tools is not supported yet"),
        ({"extra_body": {"min_p": 2}}, "min_p", "min_p must be a finite number from 0"),
        ({"temperature": 3, "stream": True}, "temperature", "temperature must be a finite number"),
    ],
)
def test_wrong_request_is_a_bad_request_error(client, options, parameter, message):
    options = {"model": MODEL, "messages": CONVERSATION} | options
    with pytest.raises(BadRequestError, match=message) as caught:
        client.chat.completions.create(**options)
    assert (caught.value.param, caught.value.status_code) == (parameter, 400)


def test_too_long_a_prompt_is_a_bad_request_error(client):
    with pytest.raises(BadRequestError, match="maximum context length is 512 tokens, and the prompt has 601"):
        client.completions.create(model=MODEL, prompt="word " * 600)


def test_unknown_model_is_a_not_found_error(client):
    with pytest.raises(
        NotFoundError, match="the model 'gpt-5' does not exist; this server has 'smollm2-135m'"
    ) as caught:
        client.chat.completions.create(model="gpt-5", messages=CONVERSATION)
    assert caught.value.param == "model"
    with pytest.raises(NotFoundError, match="the model 'gpt-5' does not exist"):
        client.models.retrieve("gpt-5")


def test_unknown_route_is_a_not_found_error(client):
    with pytest.raises(NotFoundError, match="Not Found"):
        client.images.generate(prompt="a cat")


@pytest.mark.parametrize(
    ("arguments", "environment", "keys"),
    [
        (("--api-key", "key-one-4711", "key-two-4712"), {}, ("key-one-4711", "key-two-4712")),
        ((), {"VLLM_API_KEY": "key-of-theirs"}, ("key-of-theirs",)),
        ((), {"JAXLLM_API_KEY": "key-of-ours"}, ("key-of-ours",)),
    ],
    ids=["--api-key", "VLLM_API_KEY", "JAXLLM_API_KEY"],
)
def test_api_keys_open_the_server_and_others_are_authentication_errors(tmp_path, arguments, environment, keys):
    pytest.importorskip("glassllm")
    server = ServerProcess(
        "glassllm-en", tmp_path / "log", *SMALL_LIMITS, "--max-model-len", "128", *arguments, environment=environment
    )
    with server:
        for key in keys:
            with OpenAI(base_url=server.base_url, api_key=key) as client:
                assert client.models.list().data[0].id == "glassllm-en"
        with (
            OpenAI(base_url=server.base_url, api_key="EMPTY") as stranger,
            pytest.raises(AuthenticationError, match="Error code: 401"),
        ):
            stranger.completions.create(model="glassllm-en", prompt="x")
        assert (server.status("/health"), server.status("/v1/models")) == (200, 401)
    assert all(key not in server.log for key in keys)
