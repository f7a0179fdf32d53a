"""Beam search through the API, over a small real model: the scripted runner has no beams."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from jaxllm.async_llm import AsyncJaxLLM
from jaxllm.beam_search_params import BeamSearchParams
from jaxllm.server.config import ServerConfig
from tests.integration.helpers import needs_glassllm, start_glassllm
from tests.server.helpers import Client, chat_body

pytestmark = needs_glassllm

PROMPT = "Alice was"
WIDTH, NUM_TOKENS = 3, 5


@pytest.fixture(scope="module")
def offline_and_client() -> Iterator[tuple[list[str], Client]]:
    """What the engine finds without a server, and the server over it."""
    llm = start_glassllm(chat_template="{{ messages[0].content }}")
    [found] = llm.beam_search([PROMPT], BeamSearchParams(WIDTH, NUM_TOKENS, temperature=1.0))
    client = Client(AsyncJaxLLM.from_built(llm._built), ServerConfig())
    yield [sequence.text.removeprefix(PROMPT) for sequence in found.sequences], client
    client.llm.shutdown()


@pytest.fixture
def tiny(offline_and_client) -> Client:
    return offline_and_client[1]


def test_beams_become_choices(offline_and_client) -> None:
    expected, client = offline_and_client
    body = client.complete(PROMPT, use_beam_search=True, n=WIDTH, max_tokens=NUM_TOKENS)
    choices = body["choices"]
    assert [choice["text"] for choice in choices] == expected
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert [choice["finish_reason"] for choice in choices] == ["length"] * WIDTH
    assert body["usage"]["completion_tokens"] == WIDTH * NUM_TOKENS


def test_beams_become_answers(offline_and_client) -> None:
    expected, client = offline_and_client
    body = client.chat(PROMPT, use_beam_search=True, n=WIDTH, max_tokens=NUM_TOKENS)
    assert [choice["message"]["content"] for choice in body["choices"]] == expected


def test_several_prompts_are_searched_in_one_request(offline_and_client) -> None:
    expected, client = offline_and_client
    body = client.complete([PROMPT, PROMPT], use_beam_search=True, n=WIDTH, max_tokens=NUM_TOKENS)
    assert [choice["text"] for choice in body["choices"]] == expected * 2
    assert [choice["index"] for choice in body["choices"]] == list(range(2 * WIDTH))


def test_prompt_can_be_put_before_the_beams(offline_and_client) -> None:
    expected, client = offline_and_client
    body = client.complete(PROMPT, use_beam_search=True, n=WIDTH, max_tokens=NUM_TOKENS, echo=True)
    assert body["choices"][0]["text"] == PROMPT + expected[0]


def test_search_as_long_as_the_context_is_cut_to_it(tiny) -> None:
    body = tiny.complete(PROMPT, use_beam_search=True, n=1, max_tokens=128, ignore_eos=True)
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["total_tokens"] == 128


def test_search_can_not_be_streamed(tiny) -> None:
    for path, body in (("/v1/completions", {"prompt": "hi"}), ("/v1/chat/completions", chat_body("hi"))):
        message, parameter = tiny.refusal(path, {**body, "use_beam_search": True, "stream": True})
        assert (message, parameter) == ("stream must be false with use_beam_search", "stream")


def test_more_beams_than_the_engine_takes_are_refused(tiny) -> None:
    message, parameter = tiny.refusal("/v1/completions", {"prompt": "hi", "use_beam_search": True, "n": 11})
    assert "beam_width must be at most 10" in message
    assert parameter == "beam_width"
    assert asyncio.run(tiny.llm.drain(60))
