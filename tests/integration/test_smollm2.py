"""SmolLM2-135M in float32 draws what transformers draws, however its steps are planned."""

from __future__ import annotations

import pytest

from jaxllm.errors import UnsupportedModelError
from jaxllm.sampling_params import SamplingParams
from tests.integration.helpers import drawn, fewest_pages, generate, needs_smollm2, replanned, start_smollm2
from tests.references.reference import load_reference

pytestmark = [needs_smollm2, pytest.mark.slow]

GREEDY = SamplingParams(temperature=0.0, max_tokens=64, ignore_eos=True)
CHAT_QUESTIONS = ("Who won the world series in 2020?", "Write a haiku about the sea.")
"""The reference's last two prompts are these, in the chat template."""
SHORT = (0, 1, 2)
MIDDLE = 27
"""The prompt of 165 tokens."""
LONG = 35
"""The prompt of 808 tokens: with the short ones it fills more than the smallest cache."""


@pytest.fixture(scope="module")
def llm():
    with start_smollm2() as llm:
        yield llm


@pytest.fixture(scope="module")
def reference():
    return load_reference("smollm2-135m")


@pytest.fixture(scope="module")
def few(reference):
    """A few short prompts and a long one, with what they give."""
    chosen = (*SHORT, LONG)
    assert len(reference.prompts[LONG]) == 808
    return [reference.prompts[index] for index in chosen], [reference.outputs[index] for index in chosen]


def test_all_prompts_in_one_batch(llm, reference):
    cases = [case for case in reference.cases if case.text is not None]
    assert len(cases) >= 20
    outputs = llm.generate([case.text for case in cases], GREEDY, use_tqdm=False)
    assert [output.prompt_token_ids for output in outputs] == [list(case.token_ids) for case in cases]
    assert drawn(outputs) == [list(case.output_token_ids) for case in cases]


def test_known_text(llm):
    output = llm.generate("The capital of France is", GREEDY.clone(max_tokens=4), use_tqdm=False)[0]
    assert output.outputs[0].text.startswith(" Paris.\n")


def test_each_prompt_alone(llm, few):
    prompts, expected = few
    alone = replanned(llm)
    assert [drawn(generate(alone, [prompt], GREEDY))[0] for prompt in prompts] == expected


def test_prefix_cache_off(llm, few):
    prompts, expected = few
    outputs = generate(replanned(llm, enable_prefix_caching=False), prompts, GREEDY)
    assert drawn(outputs) == expected
    assert {output.num_cached_tokens for output in outputs} == {0}


def test_prefix_cache_hits(llm, few):
    prompts, expected = few
    warm = replanned(llm)
    generate(warm, prompts[-1:], GREEDY.clone(max_tokens=1))
    outputs = generate(warm, prompts, GREEDY)
    assert outputs[-1].num_cached_tokens == 800
    assert drawn(outputs) == expected


def test_chunks_of_16(llm, reference):
    chosen = (*SHORT, MIDDLE)
    outputs = generate(replanned(llm, chunk_size=16), [reference.prompts[index] for index in chosen], GREEDY)
    assert drawn(outputs) == [reference.outputs[index] for index in chosen]


def test_chunks_of_60_beside_decoding(llm, few):
    """With the short prompts' tokens each step is just as large as a program."""
    prompts, expected = few
    assert drawn(generate(replanned(llm, chunk_size=60), prompts, GREEDY)) == expected


def test_preemption(llm, few):
    prompts, expected = few
    small = replanned(llm, num_pages=fewest_pages(llm))
    assert drawn(generate(small, prompts, GREEDY)) == expected
    assert small.get_metrics().num_preemptions > 0


def test_logprobs(llm, reference):
    cases = [case for case in reference.cases if case.prompt_logprobs is not None][:12]
    params = GREEDY.clone(max_tokens=1, logprobs=5, prompt_logprobs=0)
    outputs = generate(llm, [case.token_ids for case in cases], params)
    for output, case in zip(outputs, cases, strict=True):
        assert output.outputs[0].logprobs is not None
        assert output.prompt_logprobs is not None
        first = {token: entry.logprob for token, entry in output.outputs[0].logprobs[0].items()}
        assert first == pytest.approx(dict(case.first_top), abs=1e-3)
        pairs = zip(output.prompt_logprobs[1:], case.token_ids[1:], strict=True)
        known = [entry[token].logprob for entry, token in pairs if entry is not None]
        assert known == pytest.approx(case.prompt_logprobs, abs=1e-3)


def test_chat(llm, reference):
    conversations = [[{"role": "user", "content": question}] for question in CHAT_QUESTIONS]
    outputs = llm.chat(conversations, GREEDY, use_tqdm=False)
    assert [output.prompt_token_ids for output in outputs] == reference.prompts[-2:]
    assert drawn(outputs) == reference.outputs[-2:]


def test_three_devices(reference):
    """Two can't share three key-value heads; three can."""
    chosen = (SHORT[0], MIDDLE)
    with start_smollm2(tensor_parallel_size=3, max_num_seqs=2, max_num_batched_tokens=64, max_model_len=256) as llm:
        outputs = generate(llm, [reference.prompts[index] for index in chosen], GREEDY)
    assert drawn(outputs) == [reference.outputs[index] for index in chosen]


@pytest.mark.parametrize("size", [2, 4])
def test_two_or_four_devices_are_refused(size):
    with pytest.raises(
        UnsupportedModelError,
        match=f"tensor_parallel_size={size} can't split 9 query heads and 3 key-value heads evenly",
    ):
        start_smollm2(tensor_parallel_size=size)
