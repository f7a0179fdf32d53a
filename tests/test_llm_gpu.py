"""The whole engine on a GPU: float32 models give the tokens of transformers."""

import time
from pathlib import Path
from typing import Any

import pytest

from jaxllm.llm import JaxLLM
from jaxllm.sampling_params import SamplingParams
from tests.references.reference import Reference, load_reference, tiny_reference_names

pytestmark = pytest.mark.gpu


def start(reference: Reference, directory: Path, **options: Any) -> JaxLLM:
    """An engine in float32 that compiles everything anew."""
    return JaxLLM(
        reference.directory,
        skip_tokenizer_init=True,
        dtype="float32",
        device="gpu",
        max_model_len=96,
        compilation_cache_dir=str(directory),
        use_tqdm_on_load=False,
        **options,
    )


@pytest.mark.parametrize("name", tiny_reference_names())
def test_float32_gives_the_reference_tokens(name: str, tmp_path) -> None:
    reference = load_reference(name)
    params = [
        SamplingParams(temperature=0.0, max_tokens=len(output), ignore_eos=True, detokenize=False, logprobs=0)
        for output in reference.outputs
    ]
    with start(reference, tmp_path, max_num_seqs=2, max_num_batched_tokens=32, kv_cache_memory_bytes="8MB") as llm:
        outputs = llm.generate(reference.prompts, params, use_tqdm=False)
    assert [output.outputs[0].token_ids for output in outputs] == reference.outputs
    for output, case in zip(outputs, reference.cases, strict=True):
        drawn = output.outputs[0]
        logprobs = [position[token].logprob for position, token in zip(drawn.logprobs, drawn.token_ids, strict=True)]
        assert logprobs == pytest.approx(case.output_logprobs, abs=2e-4)


def test_preempted_requests_come_back_from_host_memory(tmp_path) -> None:
    """The cache holds one sequence of the greatest length, so most of them wait in the host's memory for a while."""
    reference = load_reference("llama_gqa")
    page_bytes = 2 * 3 * 2 * 12 * 16 * 4  # keys and values, layers, heads, head_dim, tokens, float32
    params = SamplingParams(temperature=0.0, max_tokens=len(reference.outputs[0]), ignore_eos=True, detokenize=False)
    with start(
        reference,
        tmp_path,
        max_num_seqs=8,
        max_num_batched_tokens=64,
        kv_cache_memory_bytes=7 * page_bytes,
        swap_space=30 * page_bytes / 2**30,
        enable_prefix_caching=False,
    ) as llm:
        runner = llm._built.runner
        runner.reserve_host_pages()
        end = time.monotonic() + 10
        while runner.num_host_pages < 30 and time.monotonic() < end:
            time.sleep(0.01)
        outputs = llm.generate(reference.prompts, params, use_tqdm=False)
        metrics = llm.get_metrics()
    assert [output.outputs[0].token_ids for output in outputs] == reference.outputs
    assert metrics.num_preemptions > 0
    assert metrics.num_saved_tokens > 0
