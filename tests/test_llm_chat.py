"""JaxLLM.chat: conversations are rendered with the template and completed."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path

import pytest

from jaxllm.errors import ValidationError
from jaxllm.sampling_params import SamplingParams
from tests.frontend.helpers import ids, make_llm, make_tokenizer, texts

HELLO = [{"role": "user", "content": "hi"}]
REPLIES = {"<user>hi<assistant>": "hello", "<user>hi<assistant>so": " be it", "hi!": "short", "hi?": "other"}


def test_one_conversation():
    output = make_llm(REPLIES).chat(HELLO, use_tqdm=False)[0]
    assert (output.prompt, output.outputs[0].text) == ("<user>hi<assistant>", "hello")
    assert output.prompt_token_ids == ids("<user>hi<assistant>")


def test_many_conversations_show_one_rendering_bar(capsys):
    assert texts(make_llm(REPLIES).chat([HELLO, HELLO])) == ["hello", "hello"]
    shown = capsys.readouterr().err
    assert "Rendering conversations: 100%" in shown
    assert "Rendering prompts" not in shown


def test_no_conversation():
    assert make_llm().chat([], use_tqdm=False) == []


def test_stream():
    assert texts(make_llm(REPLIES).chat(HELLO, stream=True))[-1] == "hello"


def test_final_message_can_go_on():
    messages = [*HELLO, {"role": "assistant", "content": "so"}]
    llm = make_llm(REPLIES)
    outputs = llm.chat(messages, add_generation_prompt=False, continue_final_message=True, use_tqdm=False)
    assert texts(outputs) == [" be it"]


def test_template_of_the_call_wins_over_the_engines(tmp_path):
    engines = tmp_path / "template.jinja"
    engines.write_text("{{ messages[0]['content'] }}!")
    llm = make_llm(REPLIES, chat_template=engines)
    assert texts(llm.chat(HELLO, use_tqdm=False)) == ["short"]
    assert texts(llm.chat(HELLO, chat_template="{{ messages[0]['content'] }}?", use_tqdm=False)) == ["other"]


def prompts(outputs):
    return [output.prompt for output in outputs]


NAMED = {
    "default": "{{ messages[0]['content'] }}",
    "tool_use": "{% for tool in tools %}[{{ tool['function']['name'] }}]{% endfor %}{{ messages[0]['content'] }}",
    "rag": "rag:{{ messages[0]['content'] }}",
}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "hi"),
        ({"chat_template": "rag"}, "rag:hi"),
        ({"tools": TOOLS}, "[add]hi"),
        ({"tools": TOOLS, "chat_template": "default"}, "hi"),
        ({"chat_template": "{{ messages[0]['content'] }}!"}, "hi!"),
    ],
)
def test_model_with_several_templates(options, expected):
    llm = make_llm(tokenizer=make_tokenizer(NAMED))
    assert prompts(llm.chat(HELLO, use_tqdm=False, **options)) == [expected]


def test_engine_takes_the_name_of_a_template():
    llm = make_llm(tokenizer=make_tokenizer(NAMED), chat_template="rag")
    assert prompts(llm.chat(HELLO, use_tqdm=False)) == ["rag:hi"]


@pytest.mark.parametrize("as_path", [str, Path])
def test_template_from_a_file(tmp_path, as_path):
    file = tmp_path / "template.jinja"
    file.write_text("{{ messages[0]['content'] }}?")
    assert prompts(make_llm().chat(HELLO, chat_template=as_path(file), use_tqdm=False)) == ["hi?"]


@pytest.mark.parametrize("module", ["jaxllm.entrypoints.chat_utils", "jaxllm.renderers.chat_utils"])
def test_loaded_template(tmp_path, module):
    file = tmp_path / "template.jinja"
    file.write_text("{{ messages[0]['content'] }}?")
    loaded = importlib.import_module(module).load_chat_template(chat_template=str(file))
    assert prompts(make_llm().chat(HELLO, chat_template=loaded, use_tqdm=False)) == ["hi?"]


def test_template_that_is_no_file():
    with pytest.raises(ValidationError, match=r"'nowhere.jinja', which is no readable file"):
        make_llm().chat(HELLO, chat_template="nowhere.jinja", use_tqdm=False)


def test_engine_template_that_is_no_file_is_refused_at_the_start():
    with pytest.raises(ValidationError, match=r"'nowhere.jinja', which is no readable file"):
        make_llm(chat_template="nowhere.jinja")


def test_model_without_a_template_says_what_to_pass():
    llm = make_llm(tokenizer=make_tokenizer(None))
    with pytest.raises(
        ValidationError, match=r"no chat template: pass chat_template= \(--chat-template to a server\) with"
    ):
        llm.chat(HELLO, use_tqdm=False)
    assert prompts(llm.chat(HELLO, chat_template="{{ messages[0]['content'] }}", use_tqdm=False)) == ["hi"]


def test_variables_of_the_template():
    template = "{{ messages[0]['content'] }}{% if enable_thinking %}<think>{% endif %}"
    llm = make_llm()
    chat = partial(llm.chat, HELLO, chat_template=template, use_tqdm=False)
    assert prompts(chat()) == ["hi"]
    assert prompts(chat(chat_template_kwargs={"enable_thinking": True})) == ["hi<think>"]


def test_content_in_parts():
    parts = [{"type": "text", "text": "hi"}, {"type": "text", "text": "you"}]
    template = "{% for part in messages[0]['content'] %}({{ part['text'] }}){% endfor %}"
    llm = make_llm()
    messages = [{"role": "user", "content": parts}]
    assert prompts(llm.chat(messages, use_tqdm=False)) == ["<user>hi\nyou<assistant>"]
    assert prompts(llm.chat(messages, chat_template=template, use_tqdm=False)) == ["(hi)(you)"]
    forced = llm.chat(messages, chat_template=template, chat_template_content_format="string", use_tqdm=False)
    assert prompts(forced) == ["()()()()()()"]


def test_without_the_header_of_the_answer():
    assert prompts(make_llm().chat(HELLO, add_generation_prompt=False, use_tqdm=False)) == ["<user>hi"]


def test_either_a_new_message_or_the_last_one_goes_on():
    with pytest.raises(ValidationError, match="set only one of them"):
        make_llm().chat(HELLO, continue_final_message=True, use_tqdm=False)


def test_stream_of_several_conversations():
    last = {}
    other = [{"role": "user", "content": "ho"}]
    for output in make_llm(REPLIES).chat([HELLO, other], stream=True):
        last[output.request_id] = output
    assert prompts(last.values()) == ["<user>hi<assistant>", "<user>ho<assistant>"]
    assert texts(last.values())[0] == "hello"


@pytest.mark.parametrize("messages", ["hi", {"role": "user"}, 5, ["hi"], [[]], [HELLO, "hi"], None])
def test_wrong_messages(messages):
    with pytest.raises(ValidationError, match="messages must be a list of messages"):
        make_llm().chat(messages, use_tqdm=False)


def test_params_per_conversation_must_match():
    with pytest.raises(ValidationError, match="sampling_params must be one value or one per prompt: got 1 for 2"):
        make_llm().chat([HELLO, HELLO], [SamplingParams()], use_tqdm=False)


def test_needs_a_tokenizer():
    with pytest.raises(ValidationError, match="chat needs a tokenizer"):
        make_llm(skip_tokenizer_init=True).chat(HELLO)
