from __future__ import annotations

import pytest

from tests.frontend.helpers import EOS, ids
from tests.server.helpers import chat_body


def test_text_becomes_tokens_and_text_again(client) -> None:
    body = client.post("/tokenize", {"prompt": "hi"}).json()
    assert body == {"count": 2, "max_model_len": 64, "tokens": ids("hi"), "token_strs": None}
    assert client.post("/detokenize", {"tokens": body["tokens"]}).json() == {"prompt": "hi"}


def test_spelling_of_tokens_is_told_on_request(client) -> None:
    body = client.post("/tokenize", {"prompt": "h i", "return_token_strs": True}).json()
    assert body["token_strs"] == ["h", "Ġ", "i"]


def test_special_tokens_are_shown(client) -> None:
    assert client.post("/detokenize", {"tokens": [*ids("hi"), EOS]}).json() == {"prompt": "hi<eos>"}


def test_conversation_becomes_the_tokens_of_its_prompt(client) -> None:
    body = client.post("/tokenize", chat_body("hi")).json()
    assert body["tokens"] == ids("<user>hi<assistant>")
    body = client.post("/tokenize", chat_body("hi", add_generation_prompt=False)).json()
    assert body["tokens"] == ids("<user>hi")


def test_tools_reach_the_template(start) -> None:
    client = start(chat_template="{{ tools[0].function.name }}")
    tool = {"type": "function", "function": {"name": "f"}}
    assert client.post("/tokenize", chat_body("hi", tools=[tool])).json()["tokens"] == ids("f")


@pytest.mark.parametrize(
    ("path", "body", "parameter"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": []}, "prompt"),
        ("/tokenize", chat_body("hi", chat_template="{{ 1 }}"), "chat_template"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [258]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
    ],
)
def test_wrong_value_is_refused(client, path, body, parameter) -> None:
    assert client.refusal(path, body)[1] == parameter


def test_unknown_model_is_not_found(client) -> None:
    client.refusal("/tokenize", {"prompt": "hi", "model": "nobody"}, 404)
    client.refusal("/detokenize", {"tokens": [1], "model": "nobody"}, 404)


def test_server_without_a_tokenizer_says_so(start) -> None:
    client = start(skip_tokenizer_init=True)
    for path, body in (("/tokenize", {"prompt": "hi"}), ("/detokenize", {"tokens": [1]})):
        message, _ = client.refusal(path, body)
        assert message == "this server has no tokenizer: it was started with --skip-tokenizer-init"


def test_final_message_is_left_open(client) -> None:
    fields = {"add_generation_prompt": False, "continue_final_message": True}
    assert client.post("/tokenize", chat_body("hi", **fields)).json()["tokens"] == ids("<user>hi")


def test_template_of_a_request_is_used_where_trusted(start) -> None:
    client = start(config={"trust_request_chat_template": True})
    fields = {"chat_template": "{{ messages[0].content }}{{ mark }}", "chat_template_kwargs": {"mark": "!"}}
    assert client.post("/tokenize", chat_body("hi", **fields)).json()["tokens"] == ids("hi!")
