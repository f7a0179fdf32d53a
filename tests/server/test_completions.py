from __future__ import annotations

import pytest

from tests.frontend.helpers import EOS, ids
from tests.server.helpers import joined_text, last_choice

PATH = "/v1/completions"


def test_completion_has_the_forms_of_the_api(client) -> None:
    body = client.complete("hi", request_id="7")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "id": "cmpl-7",
        "object": "text_completion",
        "model": "scripted",
        "choices": [
            {
                "index": 0,
                "text": "hello",
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
                "token_ids": None,
                "prompt_logprobs": None,
                "prompt_token_ids": None,
            }
        ],
        "usage": {"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8, "prompt_tokens_details": None},
        "system_fingerprint": client.context.fingerprint,
    }


def test_sixteen_tokens_is_the_default_length(start) -> None:
    client = start({"hi": "x" * 30})
    [choice] = client.complete("hi")["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("x" * 16, "length")
    assert client.complete("hi", max_tokens=None)["choices"][0]["text"] == "x" * 16


def test_length_beyond_the_context_is_cut_to_it(client) -> None:
    [choice] = client.complete("a" * 40, max_tokens=64, min_tokens=50, ignore_eos=True)["choices"]
    assert (len(choice["text"]) + 40 >= 62, choice["finish_reason"]) == (True, "length")


def test_length_beyond_the_model_is_refused(client) -> None:
    message, parameter = client.refusal(PATH, {"prompt": "hi", "max_tokens": 65})
    assert message == "max_tokens must be at most 64, the model's context length, got 65"
    assert parameter == "max_tokens"


def test_servers_own_limit_holds_for_every_request(start) -> None:
    client = start({"hi": "hello"}, override_generation_config={"max_new_tokens": 3})
    assert client.complete("hi", max_tokens=5)["choices"][0]["text"] == "hel"


@pytest.mark.parametrize("prompt", ["hi", ids("hi"), [ids("hi")], ["hi"]])
def test_prompt_comes_in_four_forms(client, prompt) -> None:
    assert client.complete(prompt)["choices"][0]["text"] == "hello"


def test_choices_of_several_prompts_are_ordered_by_prompt(start) -> None:
    client = start({"hi": "hello", "yo": "SEED"})
    body = client.complete(["hi", "yo", "hi"], n=2)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3, 4, 5]
    texts = [choice["text"] for choice in body["choices"]]
    assert texts[:2] == texts[4:] == ["hello", "hello"]
    assert texts[2] != texts[3]
    assert body["usage"]["prompt_tokens"] == 6


def test_text_of_several_streamed_prompts_is_that_of_the_whole_answers(start) -> None:
    client = start({"hi": "hello", "yo": "bye"})
    chunks = client.complete_stream(["hi", "yo"], n=2)
    assert [joined_text(chunks, index) for index in range(4)] == ["hello", "hello", "bye", "bye"]
    assert [last_choice(chunks, index)["finish_reason"] for index in range(4)] == ["stop"] * 4


def test_stream_has_the_forms_of_the_api(client) -> None:
    first, *_ = chunks = client.complete_stream("hi", request_id="7")
    assert isinstance(first.pop("created"), int)
    assert first == {
        "id": "cmpl-7",
        "object": "text_completion",
        "model": "scripted",
        "system_fingerprint": client.context.fingerprint,
        "choices": [{"index": 0, "text": "h", "logprobs": None, "finish_reason": None}],
    }
    assert joined_text(chunks) == "hello"
    last = last_choice(chunks)
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", None)
    assert not any("usage" in chunk for chunk in chunks)


def test_usage_comes_in_a_chunk_of_its_own(client) -> None:
    *chunks, last = client.complete_stream("hi", stream_options={"include_usage": True})
    assert (last["choices"], last["usage"]) == (
        [],
        {"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8},
    )
    assert not any("usage" in chunk for chunk in chunks)


def test_usage_can_come_with_every_chunk(client) -> None:
    chunks = client.complete_stream("hi", stream_options={"continuous_usage_stats": True})
    assert chunks[0]["usage"] == {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
    assert chunks[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8}


def test_server_can_force_the_usage(start) -> None:
    client = start({"hi": "hello"}, config={"enable_force_include_usage": True})
    chunks = client.complete_stream("hi")
    assert all("usage" in chunk for chunk in chunks)
    assert chunks[-1]["choices"] == []


def test_cached_tokens_are_told_on_request_of_the_server(start) -> None:
    client = start({}, config={"enable_prompt_tokens_details": True})
    prompt = "a" * 40
    assert client.complete(prompt, max_tokens=1)["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert client.complete(prompt, max_tokens=1)["usage"]["prompt_tokens_details"] == {"cached_tokens": 32}
    last = client.complete_stream(prompt, max_tokens=1, stream_options={"include_usage": True})[-1]
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 32}


def test_salt_keeps_cached_prompts_apart(start) -> None:
    client = start({}, config={"enable_prompt_tokens_details": True})

    def num_cached(**fields: str) -> int:
        body = client.complete("a" * 40, max_tokens=1, **fields)
        return body["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert num_cached(cache_salt="one") == 0
    assert num_cached(cache_salt="two") == 0
    assert num_cached(cache_salt="one") == 32


@pytest.mark.parametrize("salt", ["", "a" * 129, "a@b", "a/b", "a\\b", "a\0b"])
def test_wrong_salt_is_refused(client, salt) -> None:
    _, parameter = client.refusal(PATH, {"prompt": "hi", "cache_salt": salt})
    assert parameter == "cache_salt"


def test_stop_string_is_told(client) -> None:
    [choice] = client.complete("hi", stop=["l"])["choices"]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("he", "stop", "l")
    [choice] = client.complete("hi", stop="l", include_stop_str_in_output=True)["choices"]
    assert choice["text"] == "hel"
    assert last_choice(client.complete_stream("hi", stop="l"))["stop_reason"] == "l"


def test_stop_token_is_told_by_its_id(client) -> None:
    [choice] = client.complete("hi", stop_token_ids=ids("o"))["choices"]
    assert (choice["text"], choice["stop_reason"]) == ("hell", ids("o")[0])


def test_token_ids_are_told_on_request(client) -> None:
    [choice] = client.complete("hi", return_token_ids=True)["choices"]
    assert (choice["token_ids"], choice["prompt_token_ids"]) == ([*ids("hello"), EOS], ids("hi"))
    chunks = client.complete_stream("hi", return_token_ids=True)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [one for choice in choices for one in choice["token_ids"]] == [*ids("hello"), EOS]
    assert [choice.get("prompt_token_ids") for choice in choices] == [ids("hi")] + [None] * (len(choices) - 1)


def test_echo_puts_the_prompt_before_the_text(client) -> None:
    assert client.complete("hi", echo=True)["choices"][0]["text"] == "hihello"
    assert client.complete(ids("hi"), echo=True)["choices"][0]["text"] == "hihello"
    chunks = client.complete_stream("hi", echo=True)
    assert chunks[0]["choices"][0]["text"] == "hih"
    assert joined_text(chunks) == "hihello"


def test_echo_of_a_cut_prompt_is_what_is_left(client) -> None:
    body = client.complete("say hi", echo=True, truncate_prompt_tokens=2)
    assert (body["choices"][0]["text"], body["usage"]["prompt_tokens"]) == ("hihello", 2)
    body = client.complete("hi you", echo=True, truncate_prompt_tokens=2, truncation_side="right")
    assert body["choices"][0]["text"] == "hihello"


def test_no_tokens_at_all_is_for_echo_only(client) -> None:
    body = client.complete("hi", echo=True, max_tokens=0)
    assert (body["choices"][0]["text"], body["choices"][0]["finish_reason"]) == ("hi", "length")
    assert body["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 0,
        "total_tokens": 2,
        "prompt_tokens_details": None,
    }
    message, parameter = client.refusal(PATH, {"prompt": "hi", "max_tokens": 0})
    assert (message, parameter) == ("max_tokens must be at least 1, or 0 together with echo, got 0", "max_tokens")


def test_logprobs_are_told_by_position(client) -> None:
    logprobs = client.complete("hi", logprobs=1, max_tokens=2)["choices"][0]["logprobs"]
    assert logprobs == {
        "text_offset": [0, 1],
        "token_logprobs": [-1.5, -1.5],
        "tokens": ["h", "e"],
        "top_logprobs": [{"A": -0.5, "h": -1.5}, {"A": -0.5, "e": -1.5}],
    }


def test_streamed_logprobs_go_on_where_the_text_was(client) -> None:
    chunks = client.complete_stream("hi", logprobs=0)
    logprobs = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [offset for one in logprobs for offset in one["text_offset"]] == [0, 1, 2, 3, 4, 5]
    assert [token for one in logprobs for token in one["tokens"]] == [*"hello", "<eos>"]


def test_echoed_prompt_has_logprobs_too(client) -> None:
    logprobs = client.complete("hi", echo=True, logprobs=0, max_tokens=1)["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["h", "i", "h"]
    assert logprobs["text_offset"] == [0, 1, 2]
    assert logprobs["token_logprobs"] == [None, -1.5, -1.5]
    assert logprobs["top_logprobs"] == [None, {"i": -1.5}, {"h": -1.5}]
    [first, *_] = client.complete_stream("hi", echo=True, logprobs=0, max_tokens=1)
    assert first["choices"][0]["logprobs"]["tokens"] == ["h", "i", "h"]


def test_echo_alone_with_logprobs_reads_the_prompt_only(client) -> None:
    [choice] = client.complete("hi", echo=True, logprobs=1, max_tokens=0)["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("hi", "length")
    assert choice["logprobs"]["top_logprobs"] == [None, {"A": -0.5, "i": -1.5}]


def test_tokens_can_be_written_by_their_id(start) -> None:
    client = start({"hi": "hello"}, config={"return_tokens_as_token_ids": True})
    expected = [f"token_id:{ids('h')[0]}"]
    assert client.complete("hi", logprobs=0, max_tokens=1)["choices"][0]["logprobs"]["tokens"] == expected
    body = client.complete("hi", logprobs=0, max_tokens=1, return_tokens_as_token_ids=False)
    assert body["choices"][0]["logprobs"]["tokens"] == ["h"]


def test_prompt_logprobs_are_objects_by_token_id(client) -> None:
    [choice] = client.complete("hi", prompt_logprobs=1, max_tokens=1)["choices"]
    a, i = str(ids("A")[0]), str(ids("i")[0])
    assert choice["prompt_logprobs"] == [
        None,
        {
            i: {"logprob": -1.5, "rank": 2, "decoded_token": "i"},
            a: {"logprob": -0.5, "rank": 1, "decoded_token": "A"},
        },
    ]


def test_every_token_has_an_event_where_there_is_no_text(start) -> None:
    client = start({"hi": "hello"}, skip_tokenizer_init=True)
    assert len(client.complete_stream(ids("hi"))) == len("hello") + 1


def test_model_without_tokenizer_takes_and_gives_token_ids(start) -> None:
    client = start({"hi": "hello"}, skip_tokenizer_init=True)
    [choice] = client.complete(ids("hi"), return_token_ids=True, logprobs=0, max_tokens=1)["choices"]
    assert (choice["text"], choice["token_ids"]) == ("", ids("h"))
    assert choice["logprobs"]["tokens"] == [f"token_id:{ids('h')[0]}"]
    message, _ = client.refusal(PATH, {"prompt": "hi"})
    assert message == "prompts must be token ids, as skip_tokenizer_init is True; got a text"
