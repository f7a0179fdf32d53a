"""The Python examples of vLLM's pages "Quickstart" and "Generative models", with the embedded model.

Engines have no options but the model's name, as on the pages; the modules of tests/e2e thus share their programs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxllm import LLM, BeamSearchParams, SamplingParams
from jaxllm.entrypoints.chat_utils import load_chat_template
from jaxllm.outputs import RequestOutput
from tests.integration.helpers import needs_smollm2

pytestmark = [needs_smollm2, pytest.mark.slow]

TEMPLATE = Path(__file__).resolve().parents[2] / "examples" / "template_chatml.jinja"
PROMPTS = [
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
]
CONVERSATION = [
    {"role": "system", "content": "You are a helpful assistant"},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello! How can I assist you today?"},
    {"role": "user", "content": "Write an essay about the importance of higher education."},
]
CHATML = (
    "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n"
    "<|im_start|>user\nHello<|im_end|>\n"
    "<|im_start|>assistant\nHello! How can I assist you today?<|im_end|>\n"
    "<|im_start|>user\nWrite an essay about the importance of higher education.<|im_end|>\n"
    "<|im_start|>assistant\n"
)


@pytest.fixture(scope="module")
def llm():
    with LLM(model="smollm2-135m") as llm:
        yield llm


def texts(outputs: list[RequestOutput]) -> list[tuple[str | None, str]]:
    """What the loops on the pages print."""
    return [(output.prompt, output.outputs[0].text) for output in outputs]


def test_offline_batch(llm):
    sampling_params = SamplingParams(temperature=0.8, top_p=0.95)
    outputs = llm.generate(PROMPTS, sampling_params)
    assert [prompt for prompt, _ in texts(outputs)] == PROMPTS
    assert all(text.strip() for _, text in texts(outputs))
    assert {output.outputs[0].finish_reason for output in outputs} <= {"length", "stop"}
    assert max(len(output.outputs[0].token_ids) for output in outputs) == 16


def test_generate_without_parameters(llm):
    [output] = llm.generate("Hello, my name is")
    assert output.prompt == "Hello, my name is"
    assert output.finished
    assert 1 <= len(output.outputs[0].token_ids) <= 16


def test_greedy(llm):
    params = SamplingParams(temperature=0)
    [output] = llm.generate("Hello, my name is", params)
    assert output.prompt == "Hello, my name is"
    [again] = llm.generate("Hello, my name is", params)
    assert again.outputs[0].text == output.outputs[0].text != ""


def test_beam_search_through_generate(llm):
    params = BeamSearchParams(beam_width=5, max_tokens=50)
    [output] = llm.generate("Hello, my name is", params)
    assert output.prompt == "Hello, my name is"
    assert len(output.outputs) == 5
    assert output.outputs[0].text.strip()
    assert all(1 <= len(beam.token_ids) <= 50 for beam in output.outputs)
    scores = [beam.cumulative_logprob / len(beam.token_ids) for beam in output.outputs]
    assert scores == sorted(scores, reverse=True)


def test_beam_search(llm):
    params = BeamSearchParams(beam_width=5, max_tokens=10)
    [output] = llm.beam_search([{"prompt": "Hello, my name is"}], params)
    assert len(output.sequences) == 5
    assert output.sequences[0].text.startswith("Hello, my name is")


def test_chat(llm):
    [output] = llm.chat(CONVERSATION)
    assert output.prompt == CHATML
    assert output.outputs[0].text.strip()


def test_chat_with_a_loaded_template(llm):
    custom_template = load_chat_template(chat_template=str(TEMPLATE))
    assert custom_template == TEMPLATE.read_text(encoding="utf-8")
    [output] = llm.chat(CONVERSATION, chat_template=custom_template)
    assert output.prompt == CHATML
    assert output.outputs[0].text.strip()
