"""The official `openai` client against a real server: whole answers."""

# The client's types allow None in places, and know nothing of our extra fields: what came is what is tested.
# mypy: disable-error-code="operator,union-attr,attr-defined"
from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion

from tests.e2e.server_process import ServerProcess

MODEL = "smollm2-135m"
PROMPT = "San Francisco is a"
GREEDY_TEXT = " city of breathtaking beauty, with a"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def client(smollm2_server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=smollm2_server.base_url, api_key="EMPTY", max_retries=0, timeout=120) as client:
        yield client


def ask(client: OpenAI, **options) -> ChatCompletion:
    options = {"temperature": 0, "max_tokens": 8} | options
    return client.chat.completions.create(model=MODEL, messages=QUESTION, **options)


def complete(client: OpenAI, prompt=PROMPT, **options):
    options = {"temperature": 0, "max_tokens": 7} | options
    return client.completions.create(model=MODEL, prompt=prompt, **options)


def text(client: OpenAI, **options) -> str:
    return complete(client, **options).choices[0].text


def test_lists_the_model(client):
    assert [model.id for model in client.models.list()] == [MODEL]


def test_retrieves_the_model(client):
    model = client.models.retrieve(MODEL)
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "jaxllm")


def test_completes(client):
    completion = complete(client)
    [choice] = completion.choices
    assert (choice.index, choice.text, choice.finish_reason) == (0, GREEDY_TEXT, "length")
    assert completion.object == "text_completion"
    assert completion.model == MODEL
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (4, 7)


def test_completes_16_tokens_if_no_length_is_given(client):
    assert client.completions.create(model=MODEL, prompt=PROMPT).usage.completion_tokens <= 16


def test_completes_several_prompts_in_their_order(client):
    prompts = ["Once upon a time", PROMPT, "The capital of France is"]
    completion = complete(client, prompts)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert [choice.text for choice in completion.choices] == [text(client, prompt=prompt) for prompt in prompts]


def test_completes_token_ids(client):
    token_ids = complete(client, extra_body={"return_token_ids": True}).choices[0].prompt_token_ids
    assert text(client, prompt=token_ids) == GREEDY_TEXT


def test_echo_puts_the_prompt_first(client):
    assert text(client, echo=True) == PROMPT + GREEDY_TEXT


def test_echo_of_the_prompt_alone_tells_its_logprobs(client):
    [choice] = complete(client, echo=True, max_tokens=0, logprobs=0).choices
    assert choice.text == PROMPT
    assert "".join(choice.logprobs.tokens) == PROMPT
    assert choice.logprobs.token_logprobs[0] is None
    assert all(logprob < 0 for logprob in choice.logprobs.token_logprobs[1:])


def test_answers_a_conversation(client):
    answer = ask(client)
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert "Paris" in choice.message.content
    assert choice.message.tool_calls is None
    assert answer.object == "chat.completion"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_answers_until_the_model_ends(client):
    [choice] = ask(client, max_tokens=64).choices
    assert choice.finish_reason == "stop"
    assert choice.message.content.endswith(".")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_length_ends_an_answer(client, name):
    answer = ask(client, **{"max_tokens": None, name: 3})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_n_gives_as_many_different_answers(client):
    answer = ask(client, n=3, temperature=1.0, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1


def test_seed_repeats_a_text(client):
    texts = [text(client, temperature=1.0, seed=seed, max_tokens=16) for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_stop_ends_a_text_before_it(client):
    [choice] = complete(client, stop=[","], max_tokens=16).choices
    assert (choice.text, choice.finish_reason, choice.stop_reason) == (" city of breathtaking beauty", "stop", ",")


def test_completion_logprobs_follow_the_text(client):
    logprobs = complete(client, logprobs=2).choices[0].logprobs
    assert "".join(logprobs.tokens) == GREEDY_TEXT
    assert logprobs.text_offset[:2] == [0, len(logprobs.tokens[0])]
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert len(top) == 2
        assert top[token] == logprob == max(top.values())


def test_chat_logprobs_follow_the_answer(client):
    [choice] = ask(client, logprobs=True, top_logprobs=3, max_tokens=6).choices
    content = choice.logprobs.content
    assert b"".join(bytes(one.bytes) for one in content).decode() == choice.message.content
    for one in content:
        assert len(one.top_logprobs) == 3
        assert (one.top_logprobs[0].token, one.top_logprobs[0].logprob) == (one.token, one.logprob)


def test_logit_bias_forbids_a_token(client):
    [first, *_] = complete(client, extra_body={"return_token_ids": True}).choices[0].token_ids
    assert not text(client, logit_bias={str(first): -100}).startswith(" city")


@pytest.mark.parametrize("extra_body", [{"top_k": 1}, {"top_k": -1, "min_p": 1.0}], ids=["top_k", "min_p"])
def test_extra_body_narrows_the_draw_to_the_likeliest(client, extra_body):
    assert text(client, temperature=2.0, extra_body=extra_body) == GREEDY_TEXT


@pytest.mark.parametrize(
    "options",
    [
        {"extra_body": {"repetition_penalty": 1.8}},
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"extra_body": {"bad_words": ["city"]}},
    ],
    ids=["repetition", "presence", "frequency", "bad_words"],
)
def test_penalties_change_a_greedy_text(client, options):
    assert text(client, max_tokens=48, **options) != text(client, max_tokens=48)


def test_extra_body_asks_for_vllms_fields(client):
    body = {"ignore_eos": True, "min_tokens": 64, "return_token_ids": True, "stop_token_ids": []}
    answer = ask(client, max_tokens=64, extra_body=body)
    assert answer.usage.completion_tokens == 64
    assert len(answer.choices[0].token_ids) == 64


def test_beam_search_gives_the_best_first(client):
    completion = complete(client, n=4, extra_body={"use_beam_search": True})
    assert len({choice.text for choice in completion.choices}) == 4


def test_raw_response_has_json_and_a_status(client):
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=QUESTION, max_tokens=1)
    assert raw.status_code == 200
    assert raw.headers["content-type"] == "application/json"
    assert raw.parse().id.startswith("chatcmpl-")


def test_twenty_requests_at_once_get_their_own_answers(smollm2_server):
    prompts = [f"The number {number} is" for number in range(20)]

    async def all_at_once() -> list[str]:
        async with AsyncOpenAI(base_url=smollm2_server.base_url, api_key="EMPTY", timeout=120) as client:
            create = client.completions.create
            calls = [create(model=MODEL, prompt=prompt, max_tokens=8, temperature=0) for prompt in prompts]
            return [completion.choices[0].text for completion in await asyncio.gather(*calls)]

    texts = asyncio.run(all_at_once())
    with OpenAI(base_url=smollm2_server.base_url, api_key="EMPTY") as client:
        [alone] = [complete(client, prompts, max_tokens=8)]
    assert texts == [choice.text for choice in alone.choices]
