"""Engines come and go in one process, and take their memory with them."""

from __future__ import annotations

import asyncio
import gc
import weakref

import jax
import pytest

from jaxllm.async_llm import AsyncJaxLLM
from jaxllm.engine_args import AsyncEngineArgs, EngineArgs
from jaxllm.errors import EngineDeadError
from jaxllm.llm import JaxLLM
from tests.integration.helpers import GREEDY, TINY_MODEL_LEN, drawn, generate, greedy_outputs, start_tiny
from tests.references.reference import load_reference

NAME = "llama_gqa"
ARGUMENTS = {
    "max_num_seqs": 8,
    "max_num_batched_tokens": 64,
    "max_model_len": TINY_MODEL_LEN,
    "dtype": "float32",
    "device": "cpu",
    "skip_tokenizer_init": True,
    "use_tqdm_on_load": False,
}
"""Those of `start_tiny`, so that all engines here have the same programs."""


def on_device() -> tuple[int, int]:
    """Arrays and loaded programs that are alive."""
    gc.collect()
    return len(jax.live_arrays()), len(jax.devices()[0].client.live_executables())


@pytest.fixture
def nothing_left() -> tuple[int, int]:
    """What is on the device without an engine, once the small programs that jax keeps for itself are there."""
    start_tiny(NAME).shutdown()
    return on_device()


def test_shutdown_frees_the_device_and_another_engine_works(nothing_left):
    reference = load_reference(NAME)
    for _ in range(2):
        llm = start_tiny(NAME)
        assert greedy_outputs(llm, reference) == reference.outputs
        arrays, programs = on_device()
        assert arrays > nothing_left[0]
        assert programs > nothing_left[1]
        llm.shutdown()
        llm.shutdown()
        assert on_device() == nothing_left
        with pytest.raises(EngineDeadError, match="the engine was shut down"):
            generate(llm, reference.prompts)


def test_leaving_the_context_frees_the_device_under_a_running_request(nothing_left):
    with start_tiny(NAME) as llm:
        stream = llm.generate([[1, 2, 3]], GREEDY, stream=True)
        next(stream)
    assert on_device() == nothing_left
    with pytest.raises(EngineDeadError, match="the engine was shut down"):
        next(stream)


def test_a_forgotten_engine_is_freed_without_the_cycle_collector(nothing_left):
    llm = start_tiny(NAME)
    generate(llm, [[1, 2, 3]])
    stream = llm.generate([[1, 2, 3]], GREEDY, stream=True)
    next(stream)
    runner = weakref.ref(llm._built.runner)
    gc.disable()
    try:
        del llm, stream
        assert runner() is None
        assert len(jax.live_arrays()) == nothing_left[0]
    finally:
        gc.enable()
    assert on_device() == nothing_left


def test_an_engine_whose_step_failed_can_be_shut_down(nothing_left):
    llm = start_tiny(NAME)
    for array in jax.tree.leaves(llm._built.runner._state):  # as after a step that took its state and gave none back
        array.delete()
    llm.shutdown()
    assert on_device() == nothing_left


def test_the_cycle_collector_leaves_out_what_was_there_at_the_start(nothing_left):
    gc.unfreeze()
    with start_tiny(NAME):
        assert gc.get_freeze_count() > 10_000


def test_async_engine_answers_like_the_reference_and_frees_the_device(nothing_left):
    reference = load_reference(NAME)
    llm = AsyncJaxLLM.from_engine_args(AsyncEngineArgs(reference.directory, **ARGUMENTS))
    params = GREEDY.clone(max_tokens=len(reference.outputs[0]))

    async def answer(prompt):
        outputs = [output async for output in llm.generate({"prompt_token_ids": prompt}, params)]
        return outputs[-1]

    async def main():
        return await asyncio.gather(*(answer(prompt) for prompt in reference.prompts))

    outputs = asyncio.run(main())
    assert drawn(outputs) == reference.outputs
    assert all(output.metrics is not None for output in outputs)
    assert llm.get_metrics().kv_cache_usage == 0.0
    llm.shutdown()
    assert on_device() == nothing_left


def test_engine_args_start_an_engine(nothing_left):
    arguments = EngineArgs(load_reference(NAME).directory, block_size=16, **ARGUMENTS)
    assert JaxLLM.from_engine_args(arguments).config.page_size == 16
    assert JaxLLM.from_engine_args({"model": load_reference(NAME).directory} | ARGUMENTS).max_model_len == 96
    assert on_device() == nothing_left
