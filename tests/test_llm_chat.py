"""JaxLLM.chat: conversations are rendered with the template and completed."""

from __future__ import annotations

import pytest

from jaxllm.errors import ValidationError
from jaxllm.sampling_params import SamplingParams
from tests.frontend.helpers import ids, make_llm, texts

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
