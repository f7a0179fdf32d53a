"""Gemma 3 270M in float32 draws what transformers draws, however its steps are planned.

The model comes under Google's terms, so nobody gets it without asking for it: install its packages, or set
JAXLLM_TEST_GEMMA=1 to fail, with the command that installs them, where they are missing.
"""

from __future__ import annotations

import os

import pytest

from jaxllm.llm import JaxLLM
from jaxllm.models.loading.embedded import find_embedded_model
from jaxllm.sampling_params import SamplingParams
from tests.integration.helpers import drawn, fewest_pages, generate, replanned
from tests.references.reference import load_reference

MODEL = find_embedded_model("gemma-3-270m")
assert MODEL is not None
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (MODEL.is_installed or os.environ.get("JAXLLM_TEST_GEMMA") == "1"),
        reason=f"Google's Gemma terms ask for your consent: {MODEL.install_command}",
    ),
]

GREEDY = SamplingParams(temperature=0.0, max_tokens=64, ignore_eos=True)
CHOSEN = (0, 1, 2, 3, 31)
"""Four short prompts and one of 529 tokens, longer than the window of 512."""


def start(**options):
    limits = {"max_num_seqs": 32, "max_num_batched_tokens": 512, "max_model_len": 1024}
    quiet = {"use_tqdm_on_load": False, "device": "cpu", "dtype": "float32"}
    return JaxLLM("gemma-3-270m", **(limits | quiet | options))


@pytest.fixture(scope="module")
def llm():
    with start() as llm:
        yield llm


@pytest.fixture(scope="module")
def reference():
    return load_reference("gemma-3-270m")


@pytest.fixture(scope="module")
def few(reference):
    return [reference.prompts[index] for index in CHOSEN], [reference.outputs[index] for index in CHOSEN]


def test_all_prompts_in_one_batch(llm, reference):
    assert len(reference.cases) >= 20
    outputs = llm.generate([case.text for case in reference.cases], GREEDY, use_tqdm=False)
    assert [output.prompt_token_ids for output in outputs] == reference.prompts
    assert drawn(outputs) == reference.outputs


def test_each_prompt_alone(llm, few):
    prompts, expected = few
    alone = replanned(llm)
    assert [drawn(generate(alone, [prompt], GREEDY))[0] for prompt in prompts] == expected


def test_prefix_cache_off(llm, few):
    prompts, expected = few
    assert drawn(generate(replanned(llm, enable_prefix_caching=False), prompts, GREEDY)) == expected


def test_chunks_of_16(llm, few):
    prompts, expected = few
    assert drawn(generate(replanned(llm, chunk_size=16), prompts, GREEDY)) == expected


def test_preemption(llm, few):
    prompts, expected = few
    small = replanned(llm, num_pages=fewest_pages(llm))
    # Once they would all fit.
    assert drawn(generate(small, prompts * 2, GREEDY)) == expected * 2
    assert small.get_metrics().num_preemptions > 0


def test_two_devices(few):
    prompts, expected = few
    with start(tensor_parallel_size=2, max_num_seqs=2, max_num_batched_tokens=64) as llm:
        assert drawn(generate(llm, prompts[:3] + prompts[-1:], GREEDY)) == expected[:3] + expected[-1:]
