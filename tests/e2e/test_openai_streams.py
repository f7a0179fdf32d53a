"""The official `openai` client against a real server: streams, and calls that end early."""

# The client's types allow None in places, and know nothing of our extra fields: what came is what is tested.
# mypy: disable-error-code="call-overload"
from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import httpx
import pytest
from openai import APIConnectionError, APITimeoutError, AsyncOpenAI, OpenAI

from tests.e2e.server_process import ServerProcess

MODEL = "smollm2-135m"
PROMPT = "San Francisco is a"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
LONG = {"max_tokens": 480, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def client(smollm2_server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=smollm2_server.base_url, api_key="EMPTY", max_retries=0, timeout=120) as client:
        yield client


def test_streamed_completion_adds_up_to_the_whole_one(client):
    options = {"model": MODEL, "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    chunks = list(client.completions.create(**options, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == client.completions.create(**options).choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "length"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert len(chunks) > 6


def test_streamed_answer_starts_with_its_role_and_ends_with_the_reason(client):
    options = {"model": MODEL, "messages": QUESTION, "max_tokens": 32, "temperature": 0}
    first, *chunks = client.chat.completions.create(**options, stream=True)
    assert (first.object, first.choices[0].delta.role, first.choices[0].delta.content) == (
        "chat.completion.chunk",
        "assistant",
        "",
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == client.chat.completions.create(**options).choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_stream_tells_the_usage_at_its_end(client):
    *chunks, last = client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage.completion_tokens == 5


def test_streamed_answers_of_one_request_are_told_apart_by_index(client):
    chunks = client.chat.completions.create(
        model=MODEL, messages=QUESTION, n=2, seed=1, max_tokens=6, temperature=1.0, stream=True
    )
    reasons = [(choice.index, choice.finish_reason) for chunk in chunks for choice in chunk.choices]
    assert {index for index, _ in reasons} == {0, 1}
    assert sorted(index for index, reason in reasons if reason is not None) == [0, 1]


def test_streamed_logprobs_cover_the_answer(client):
    chunks = client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=6, temperature=0, logprobs=True, top_logprobs=1, stream=True
    )
    choices = [chunk.choices[0] for chunk in chunks]
    text = "".join(choice.delta.content or "" for choice in choices)
    logprobs = [one for choice in choices if choice.logprobs for one in choice.logprobs.content]
    assert b"".join(bytes(one.bytes) for one in logprobs).decode() == text


def test_stream_helper_collects_the_answer(client):
    with client.chat.completions.stream(model=MODEL, messages=QUESTION, max_tokens=32, temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= {event.type for event in events}
    assert final.choices[0].message.content == "".join(event.delta for event in events if event.type == "content.delta")
    assert final.choices[0].finish_reason == "stop"


def test_closing_a_stream_ends_its_request(client, smollm2_server):
    with client.completions.create(model=MODEL, prompt=PROMPT, stream=True, **LONG) as stream:
        next(iter(stream))
        assert smollm2_server.metric("jaxllm:num_requests_running") == 1
    smollm2_server.wait_until_idle()


def test_cancelling_a_task_ends_its_request(smollm2_server):
    started = smollm2_server.metric("jaxllm:request_success_total", finished_reason="length")

    async def cancel_midway() -> None:
        async with AsyncOpenAI(base_url=smollm2_server.base_url, api_key="EMPTY", max_retries=0) as client:
            task = asyncio.create_task(client.completions.create(model=MODEL, prompt=PROMPT, **LONG))
            while not await asyncio.to_thread(smollm2_server.metric, "jaxllm:num_requests_running"):
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel_midway())
    smollm2_server.wait_until_idle()
    assert smollm2_server.metric("jaxllm:request_success_total", finished_reason="length") == started


def test_timeout_of_the_client_ends_its_request(client, smollm2_server):
    impatient = client.with_options(timeout=httpx.Timeout(60, read=0.2))
    with pytest.raises(APITimeoutError, match="Request timed out"):
        impatient.completions.create(model=MODEL, prompt=PROMPT, **LONG)
    smollm2_server.wait_until_idle()


def test_no_server_is_a_connection_error():
    with socket.socket() as bound_but_not_listening:
        bound_but_not_listening.bind(("127.0.0.1", 0))
        port = bound_but_not_listening.getsockname()[1]
        with (
            OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="EMPTY", max_retries=0) as nobody,
            pytest.raises(APIConnectionError, match="Connection error"),
        ):
            nobody.models.list()
