import logging
from pathlib import Path
from typing import Any

import pytest

from jaxllm.errors import ValidationError
from jaxllm.text.chat_template import load_chat_template, render_chat, resolve_chat_template
from jaxllm.text.tokenizer import Tokenizer
from tests.text.helpers import CHATML, load_byte_level

HELLO = [{"role": "user", "content": "hello"}]
PARTS = (
    "{% for message in messages %}{% for part in message.content %}<{{ part.type }}>{{ part.text }}{% endfor %}"
    "{% endfor %}"
)
THINKING = "{{ messages[0].content }}{% if enable_thinking %} think{% endif %}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_byte_level(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture
def other(tmp_path: Path) -> Tokenizer:
    """A tokenizer whose template a test may set."""
    return load_byte_level(tmp_path)


def test_the_models_own_template_is_used(tokenizer: Tokenizer) -> None:
    assert render_chat(tokenizer, HELLO) == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


def test_the_generation_prompt_can_be_left_out(tokenizer: Tokenizer) -> None:
    assert render_chat(tokenizer, HELLO, add_generation_prompt=False) == "<|im_start|>user\nhello<|im_end|>\n"


def test_the_last_message_can_be_continued(tokenizer: Tokenizer) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "I am"}]
    rendered = render_chat(tokenizer, messages, add_generation_prompt=False, continue_final_message=True)
    assert rendered == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nI am"


def test_continuing_and_starting_a_message_exclude_each_other(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValidationError, match="set only one of them"):
        render_chat(tokenizer, HELLO, continue_final_message=True)


def test_continuing_needs_something_to_continue(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValidationError, match="continue_final_message needs a last message with content"):
        render_chat(tokenizer, [{"role": "assistant"}], add_generation_prompt=False, continue_final_message=True)


def test_parts_are_joined_for_a_template_that_prints_them(tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]
    assert "user\none\ntwo<|im_end|>" in render_chat(tokenizer, messages)


def test_strings_become_parts_for_a_template_that_loops_over_them(tokenizer: Tokenizer) -> None:
    assert render_chat(tokenizer, HELLO, chat_template=PARTS) == "<text>hello"


def test_the_content_format_can_be_forced(tokenizer: Tokenizer) -> None:
    template = "{{ messages[0].content is string }}"
    assert render_chat(tokenizer, HELLO, chat_template=template, content_format="string") == "True"
    assert render_chat(tokenizer, HELLO, chat_template=template, content_format="openai") == "False"
    with pytest.raises(ValidationError, match="must be 'auto', 'string' or 'openai', got 'parts'"):
        render_chat(tokenizer, HELLO, content_format="parts")


def test_a_template_reads_the_options_it_declares(tokenizer: Tokenizer) -> None:
    options = {"enable_thinking": True}
    assert render_chat(tokenizer, HELLO, chat_template=THINKING, chat_template_kwargs=options) == "hello think"


def test_an_option_that_the_template_does_not_read_is_dropped_with_a_warning(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        render_chat(tokenizer, HELLO, chat_template_kwargs={"enable_thinking": True})
    assert "doesn't read ['enable_thinking'] of chat_template_kwargs" in caplog.text


def test_options_cannot_be_parameters_of_their_own(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValidationError, match=r"chat_template_kwargs can't hold \['tokenize'\]"):
        render_chat(tokenizer, HELLO, chat_template_kwargs={"tokenize": True})


def test_tools_reach_the_template(tokenizer: Tokenizer) -> None:
    template = "{{ tools[0].function.name }}"
    tools = [{"type": "function", "function": {"name": "add"}}]
    assert render_chat(tokenizer, HELLO, chat_template=template, tools=tools) == "add"


def test_what_a_template_rejects_is_the_callers_mistake(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValidationError, match="the chat template can't render these messages: roles must alternate"):
        render_chat(tokenizer, HELLO, chat_template="{{ raise_exception('roles must alternate') }}")


def test_a_template_cannot_reach_python(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValidationError, match=r"the chat template can't render these messages: .*unsafe"):
        render_chat(tokenizer, HELLO, chat_template="{{ messages.__class__.__mro__ }}")


def test_a_model_without_template_says_what_to_pass(other: Tokenizer) -> None:
    other.chat_template = None
    with pytest.raises(
        ValidationError, match=r"no chat template: pass chat_template= \(--chat-template to a server\) with"
    ):
        render_chat(other, HELLO)
    assert render_chat(other, HELLO, chat_template=THINKING) == "hello"


def test_of_several_templates_the_fitting_one_is_used(other: Tokenizer) -> None:
    templates = {"default": "D", "tool_use": "T", "rag": "R"}
    other.chat_template = templates
    tools: list[dict[str, Any]] = [{"type": "function"}]
    assert resolve_chat_template(other, None) == "D"
    assert resolve_chat_template(other, None, tools) == "T"
    assert resolve_chat_template(other, "rag", tools) == "R"
    assert resolve_chat_template(other, "{{ messages }}") == "{{ messages }}"
    assert render_chat(other, HELLO, chat_template="rag") == "R"


def test_several_templates_without_default_are_listed(other: Tokenizer) -> None:
    other.chat_template = {"rag": "R", "tool_use": "T"}
    with pytest.raises(ValidationError, match=r"pass chat_template= with one of \['rag', 'tool_use'\]"):
        resolve_chat_template(other, None)


def test_a_template_is_loaded_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "chatml.jinja"
    path.write_text(CHATML, encoding="utf-8")
    assert load_chat_template(path) == CHATML
    assert load_chat_template(str(path)) == CHATML


def test_a_template_may_be_given_as_text() -> None:
    assert load_chat_template(CHATML) == CHATML
    assert load_chat_template("plain", is_literal=True) == "plain"
    assert load_chat_template(None) is None


def test_neither_a_file_nor_a_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"expected the path of a chat template or its text, got 'chatml.jinja'"):
        load_chat_template("chatml.jinja")
    with pytest.raises(ValidationError, match="a literal chat template must be a string, got PosixPath"):
        load_chat_template(tmp_path, is_literal=True)
