from __future__ import annotations

import pytest

from tests.frontend.helpers import EOS, ids
from tests.server.helpers import chat_body, joined_text, last_choice

PATH = "/v1/chat/completions"
PROMPT = "<user>hi<assistant>"


def prompt_of(client, messages, **fields) -> str:
    body = client.post(PATH, {"messages": messages, "max_tokens": 1, "return_prompt_text": True, **fields})
    assert body.status_code == 200, body.text
    return body.json()["prompt_text"]


def test_answer_has_the_forms_of_the_api(client) -> None:
    body = client.chat(request_id="7")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "id": "chatcmpl-7",
        "object": "chat.completion",
        "model": "scripted",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "hello there",
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
                "token_ids": None,
            }
        ],
        "service_tier": None,
        "system_fingerprint": client.context.fingerprint,
        "usage": {"prompt_tokens": 19, "completion_tokens": 12, "total_tokens": 31, "prompt_tokens_details": None},
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "prompt_text": None,
    }


def test_stream_begins_with_the_role_of_every_choice(client) -> None:
    first, second, *rest = client.chat_stream(n=2, request_id="7")
    assert isinstance(first.pop("created"), int)
    assert first == {
        "id": "chatcmpl-7",
        "object": "chat.completion.chunk",
        "model": "scripted",
        "system_fingerprint": client.context.fingerprint,
        "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        ],
    }
    assert second["choices"][0]["index"] == 1
    assert second["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert rest[0]["choices"] == [{"index": 0, "delta": {"content": "h"}, "logprobs": None, "finish_reason": None}]
    assert [joined_text(rest, index) for index in range(2)] == ["hello there"] * 2
    assert (last_choice(rest, 1)["finish_reason"], last_choice(rest, 1)["stop_reason"]) == ("stop", None)


def test_usage_comes_in_a_chunk_of_its_own(client) -> None:
    *chunks, last = client.chat_stream(stream_options={"include_usage": True})
    assert (last["choices"], last["usage"]) == (
        [],
        {"prompt_tokens": 19, "completion_tokens": 12, "total_tokens": 31},
    )
    assert not any("usage" in chunk for chunk in chunks)


def test_usage_can_come_with_every_chunk(client) -> None:
    chunks = client.chat_stream(stream_options={"continuous_usage_stats": True})
    assert chunks[0]["usage"] == {"prompt_tokens": 19, "completion_tokens": 1, "total_tokens": 20}
    assert chunks[-1]["usage"]["completion_tokens"] == 12


def test_answer_may_take_what_the_context_has_left(start) -> None:
    client = start({PROMPT: "x" * 60})
    [choice] = client.chat()["choices"]
    assert (len(choice["message"]["content"]), choice["finish_reason"]) == (64 - len(PROMPT), "length")


def test_recommended_length_is_the_default(start) -> None:
    client = start({PROMPT: "x" * 60}, generation_config={"max_new_tokens": 5})
    assert client.chat()["choices"][0]["message"]["content"] == "xxxxx"
    assert client.chat(max_tokens=7)["choices"][0]["message"]["content"] == "xxxxxxx"
    assert client.chat(max_tokens=7, max_completion_tokens=3)["choices"][0]["message"]["content"] == "xxx"


def test_length_beyond_the_model_is_refused(client) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        message, parameter = client.refusal(PATH, chat_body("hi", **{name: 65}))
        assert (message, parameter) == (f"{name} must be at most 64, the model's context length, got 65", name)


def test_messages_of_all_roles_reach_the_template(client) -> None:
    messages = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}], "name": "N"},
        {"role": "tool", "content": "d", "tool_call_id": "1"},
    ]
    assert prompt_of(client, messages) == "<system>a<user>b\nc<tool>d<assistant>"


def test_template_reads_what_else_a_message_holds(start) -> None:
    template = "{% for m in messages %}{{ m.name }}|{{ m.reasoning }}|{{ m.reasoning_content }}{% endfor %}"
    client = start(chat_template=template)
    messages = [{"role": "user", "content": "", "name": "N", "reasoning_content": "R"}]
    assert prompt_of(client, messages, add_generation_prompt=False) == "N|R|R"


def test_final_message_can_be_continued(client) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "he"}]
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    assert prompt_of(client, messages, **fields) == "<user>hi<assistant>he"
    message, parameter = client.refusal(PATH, {"messages": messages, "continue_final_message": True})
    assert parameter == "continue_final_message"
    assert "set only one of them" in message


def test_reply_without_a_new_message_has_the_last_ones_role(client) -> None:
    body = client.chat("hi", add_generation_prompt=False, max_tokens=1)
    assert body["choices"][0]["message"]["role"] == "user"


def test_role_of_replies_is_the_servers(start) -> None:
    client = start({PROMPT: "yes"}, config={"response_role": "model"})
    assert client.chat()["choices"][0]["message"]["role"] == "model"
    assert client.chat_stream()[0]["choices"][0]["delta"]["role"] == "model"


def test_echo_repeats_the_last_message_of_the_same_role(client) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "he"}]
    body = {"messages": messages, "echo": True, "max_tokens": 1, "add_generation_prompt": False}
    answer = client.post(PATH, {**body, "continue_final_message": True}).json()
    assert answer["choices"][0]["message"]["content"] == "he<"
    chunks = client.chat_stream("yo", echo=True, add_generation_prompt=False, max_tokens=1)
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "user", "content": ""},
        {"content": "yo"},
        {"content": "<"},
    ]
    assert client.chat(echo=True)["choices"][0]["message"]["content"] == "hello there"


def test_documents_and_variables_reach_the_template(start) -> None:
    template = "{{ documents[0].text if documents }}{{ one }}{{ two }}"
    client = start(chat_template=template, config={"default_chat_template_kwargs": {"one": "1", "two": "2"}})
    messages = [{"role": "user", "content": "hi"}]
    assert prompt_of(client, messages) == "12"
    fields = {"documents": [{"text": "D"}], "chat_template_kwargs": {"two": "3"}}
    assert prompt_of(client, messages, **fields) == "D13"


def test_request_brings_a_template_only_where_the_server_trusts_it(client, start) -> None:
    body = chat_body("hi", chat_template="{{ messages[0].content }}!")
    message, parameter = client.refusal(PATH, body)
    assert parameter == "chat_template"
    assert message == ("chat_template is not accepted: start the server with --trust-request-chat-template to allow it")
    trusting = start(config={"trust_request_chat_template": True})
    assert prompt_of(trusting, body["messages"], chat_template=body["chat_template"]) == "hi!"


def test_trusted_template_is_no_path(start, tmp_path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    client = start(config={"trust_request_chat_template": True})
    message, parameter = client.refusal(PATH, chat_body("hi", chat_template=str(secret)))
    assert message.startswith("chat_template must be a Jinja template or the name of one of the model's, got ")
    assert parameter == "chat_template"


def test_special_tokens_are_left_to_the_template(client) -> None:
    assert client.chat(return_token_ids=True, max_tokens=1)["prompt_token_ids"] == ids(PROMPT)
    assert client.chat(return_token_ids=True, add_special_tokens=True)["prompt_token_ids"] == ids(PROMPT)


def test_prompt_and_tokens_are_told_on_request(client) -> None:
    body = client.chat(return_token_ids=True, return_prompt_text=True)
    assert (body["prompt_token_ids"], body["prompt_text"]) == (ids(PROMPT), PROMPT)
    assert body["choices"][0]["token_ids"] == [*ids("hello there"), EOS]
    first, *rest = client.chat_stream(return_token_ids=True, return_prompt_text=True)
    assert (first["prompt_token_ids"], first["prompt_text"]) == (ids(PROMPT), PROMPT)
    told = [one for chunk in rest for one in chunk["choices"][0]["token_ids"]]
    assert told == [*ids("hello there"), EOS]


def test_logprobs_are_told_by_token(client) -> None:
    expected = {
        "content": [
            {
                "token": "h",
                "logprob": -1.5,
                "bytes": [104],
                "top_logprobs": [
                    {"token": "A", "logprob": -0.5, "bytes": [65]},
                    {"token": "h", "logprob": -1.5, "bytes": [104]},
                ],
            }
        ],
        "refusal": None,
    }
    fields = {"logprobs": True, "top_logprobs": 2, "max_tokens": 1}
    assert client.chat(**fields)["choices"][0]["logprobs"] == expected
    assert client.chat_stream(**fields)[1]["choices"][0]["logprobs"] == expected


def test_logprobs_without_a_number_tell_the_drawn_token_alone(client) -> None:
    [entry] = client.chat(logprobs=True, max_tokens=1)["choices"][0]["logprobs"]["content"]
    assert entry["top_logprobs"] == []


def test_tokens_can_be_written_by_their_id(client) -> None:
    body = client.chat(logprobs=True, max_tokens=1, return_tokens_as_token_ids=True)
    assert body["choices"][0]["logprobs"]["content"][0]["token"] == f"token_id:{ids('h')[0]}"


def test_prompt_logprobs_are_told(client) -> None:
    prompt_logprobs = client.chat(prompt_logprobs=0, max_tokens=1)["prompt_logprobs"]
    assert len(prompt_logprobs) == len(PROMPT)
    assert prompt_logprobs[0] is None
    assert prompt_logprobs[1] == {str(ids("u")[0]): {"logprob": -1.5, "rank": 2, "decoded_token": "u"}}


@pytest.mark.parametrize(
    ("fields", "parameter", "message"),
    [
        ({"messages": []}, "messages", "messages must hold at least one message, got an empty list"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages",
            "messages[0].content[0]: expected a part of type 'text', got 'image_url'; this model reads text only",
        ),
        ({"top_logprobs": 2}, "top_logprobs", "top_logprobs needs logprobs to be true"),
        (
            {"logprobs": True, "top_logprobs": -2},
            "top_logprobs",
            "top_logprobs must be an integer of at least -1, got -2 (int)",
        ),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream_options needs stream to be true"),
        ({"stream": True, "prompt_logprobs": 0}, "prompt_logprobs", "prompt_logprobs can't be streamed"),
        ({"messages": [{"content": "hi"}]}, "messages.0.role", "messages.0.role is required"),
    ],
)
def test_wrong_value_is_refused(client, fields, parameter, message) -> None:
    assert client.refusal(PATH, {**chat_body("hi"), **fields}) == (message, parameter)


def test_model_without_a_template_says_what_to_do(start) -> None:
    client = start(skip_tokenizer_init=True)
    message, _ = client.refusal(PATH, chat_body("hi"))
    assert message == "chat needs a tokenizer: skip_tokenizer_init must be False"


def test_unknown_model_is_not_found(client) -> None:
    _, parameter = client.refusal(PATH, chat_body("hi", model="nobody"), 404)
    assert parameter == "model"
