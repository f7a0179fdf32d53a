"""However steps are planned, each family draws the reference's tokens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jaxllm.llm import JaxLLM
from tests.integration.helpers import (
    PRIMARY,
    TINY_MODEL_LEN,
    drawn,
    fewest_pages,
    generate,
    greedy_outputs,
    replanned,
    start_tiny,
)
from tests.references.reference import Reference, load_reference


@pytest.fixture(scope="module", params=PRIMARY)
def started(request: pytest.FixtureRequest) -> Iterator[tuple[JaxLLM, Reference]]:
    with start_tiny(request.param) as llm:
        yield llm, load_reference(request.param)


def test_all_prompts_in_one_batch(started):
    llm, reference = started
    assert greedy_outputs(llm, reference) == reference.outputs


def test_each_prompt_alone(started):
    llm, reference = started
    alone = replanned(llm)
    assert [drawn(generate(alone, [prompt]))[0] for prompt in reference.prompts] == reference.outputs


def test_prefix_cache_hits(started):
    llm, reference = started
    cold = replanned(llm)
    assert greedy_outputs(cold, reference) == reference.outputs
    outputs = generate(cold, reference.prompts)
    page_size = llm.config.page_size
    whole_pages = [(len(prompt) - 1) // page_size * page_size for prompt in reference.prompts]
    assert [output.num_cached_tokens for output in outputs] == whole_pages
    assert max(whole_pages) > 2 * page_size
    assert drawn(outputs) == reference.outputs


def test_generated_pages_are_reused(started):
    """A prompt that continues a finished output finds the pages that decoding wrote."""
    llm, reference = started
    continued = replanned(llm)
    prompt, output = reference.prompts[-1], reference.outputs[-1]
    assert drawn(generate(continued, [prompt])) == [output]
    rest = generate(continued, [prompt + output[:20]])
    assert rest[0].num_cached_tokens == (len(prompt) + 20 - 1) // 16 * 16
    assert drawn(rest)[0][:10] == output[20:]


def test_prefix_cache_off(started):
    llm, reference = started
    without = replanned(llm, enable_prefix_caching=False)
    for _ in range(2):
        outputs = generate(without, reference.prompts)
        assert drawn(outputs) == reference.outputs
        assert {output.num_cached_tokens for output in outputs} == {0}


@pytest.mark.parametrize("chunk_size", [16, 7, 1])
def test_chunks(started, chunk_size):
    llm, reference = started
    assert greedy_outputs(replanned(llm, chunk_size=chunk_size), reference) == reference.outputs


@pytest.mark.parametrize("has_host_pages", [True, False])
@pytest.mark.parametrize("enable_prefix_caching", [True, False])
def test_preemption(started, enable_prefix_caching, has_host_pages):
    llm, reference = started
    small = replanned(
        llm,
        num_pages=fewest_pages(llm),
        enable_prefix_caching=enable_prefix_caching,
        has_host_pages=has_host_pages,
    )
    assert greedy_outputs(small, reference) == reference.outputs
    metrics = small.get_metrics()
    assert metrics.num_preemptions > 0
    assert (metrics.num_saved_tokens > 0) == has_host_pages
    assert metrics.kv_cache_usage == 0.0


def test_options_plan_the_same_way():
    """Budget, cache size and prefix caching given by the user, in an engine with programs of its own."""
    page_bytes = 2 * 3 * 2 * 12 * 16 * 4  # keys and values, layers, heads, head_dim, tokens, float32
    reference = load_reference("llama_gqa")
    num_pages = TINY_MODEL_LEN // 16 + 1
    with start_tiny(
        "llama_gqa",
        max_num_batched_tokens=16,
        kv_cache_memory_bytes=num_pages * page_bytes,
        enable_prefix_caching=False,
    ) as llm:
        assert llm._built.runner.num_pages == num_pages
        assert greedy_outputs(llm, reference) == reference.outputs
        metrics = llm.get_metrics()
    assert metrics.num_preemptions > 0
    assert metrics.num_scheduled_tokens <= 16 * metrics.num_steps
    assert metrics.prefix_cache_hits == 0
