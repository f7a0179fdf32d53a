from typing import Any

import pytest

from jaxllm.errors import ValidationError
from jaxllm.text.chat_messages import prepare_messages


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def test_parts_become_one_string() -> None:
    parts = [{"type": "text", "text": "one"}, "two", {"type": "input_text", "text": "three"}]
    assert prepare_messages(user(parts), "string") == user("one\ntwo\nthree")


def test_a_string_becomes_a_list_of_parts() -> None:
    assert prepare_messages(user("one"), "openai") == user([{"type": "text", "text": "one"}])


def test_a_string_stays_where_the_template_takes_both() -> None:
    assert prepare_messages(user("one"), "openai", keeps_strings=True) == user("one")
    assert prepare_messages(user(["one"]), "openai", keeps_strings=True) == user([{"type": "text", "text": "one"}])


def test_other_fields_stay_and_the_original_is_not_touched() -> None:
    original = [{"role": "user", "content": ["one"], "name": "Ann"}]
    assert prepare_messages(original, "string") == [{"role": "user", "content": "one", "name": "Ann"}]
    assert original == [{"role": "user", "content": ["one"], "name": "Ann"}]


def test_tool_call_arguments_become_objects() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    (message,) = prepare_messages([{"role": "assistant", "tool_calls": [call]}], "string")
    assert message["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert message["content"] is None


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ("hello", "messages must be a list of messages, got str"),
        ({"role": "user"}, "messages must be a list of messages, got dict"),
        ([], "messages must hold at least one message"),
        (["hello"], r"messages\[0\] must be a dict with role and content, got str"),
        ([{"content": "x"}], r"messages\[0\]: role must be a name such as 'user' or 'assistant', got None"),
        ([{"role": 3, "content": "x"}], r"messages\[0\]: role must be a name .*, got 3"),
        ([{"role": "user"}], r"messages\[0\]: a message of role 'user' needs content"),
        (user(5), r"messages\[0\]: content must be a string or a list of parts, got int"),
        (user(b"x"), r"content must be a string or a list of parts, got bytes"),
        (user([5]), r"messages\[0\].content\[0\] must be a dict with type and text, got int"),
        (user([{"type": "image_url"}]), r"expected a part of type 'text', got 'image_url'; this model reads text only"),
        (user([{"type": "text"}]), r"messages\[0\].content\[0\]: text must be a string, got NoneType"),
        ([{"role": "assistant", "tool_calls": "x"}], r"messages\[0\]: tool_calls must be a list, got str"),
        ([{"role": "assistant", "tool_calls": [{}]}], r"tool_calls\[0\] must be a dict with function"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
            r"tool_calls\[0\]: arguments must be JSON, got '\{'",
        ),
    ],
)
def test_wrong_messages_are_refused(messages: Any, error: str) -> None:
    with pytest.raises(ValidationError, match=error):
        prepare_messages(messages, "string")
