"""Models split over two and four devices draw the reference's tokens."""

from __future__ import annotations

import jax
import pytest

from jaxllm.errors import DeviceError, UnsupportedModelError
from tests.integration.helpers import greedy_outputs, start_tiny
from tests.references.reference import load_reference


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("llama_gqa", 2),
        ("opt_pre_norm", 2),
        ("qwen3_untied", 2),
        ("gemma3_two_bases", 2),
        ("llama_gqa", 4),
        ("opt_pre_norm", 4),
        ("gemma3_two_bases", 4),
    ],
)
def test_same_tokens(name, size):
    with start_tiny(name, tensor_parallel_size=size, max_num_seqs=2) as llm:
        cache = llm._built.runner._state.caches[0].keys
        assert len(cache.sharding.device_set) == size
        assert cache.addressable_shards[0].data.nbytes == cache.nbytes // size
        split = [array for array in llm._built.runner._weights if not array.sharding.is_fully_replicated]
        assert all(array.addressable_shards[0].data.nbytes == array.nbytes // size for array in split)
        assert sum(array.nbytes for array in split) > 0.25 * sum(array.nbytes for array in llm._built.runner._weights)
        assert greedy_outputs(llm, load_reference(name)) == load_reference(name).outputs


def test_heads_that_cannot_be_split():
    with pytest.raises(
        UnsupportedModelError,
        match="tensor_parallel_size=2 can't split 3 query heads and 3 key-value heads evenly",
    ):
        start_tiny("llama_mha_tied", tensor_parallel_size=2)


def test_more_devices_than_there_are():
    with pytest.raises(
        DeviceError, match=f"tensor_parallel_size=64 needs as many devices, .* has {jax.device_count()}"
    ):
        start_tiny("llama_gqa", tensor_parallel_size=64)
