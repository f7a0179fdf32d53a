"""Copied pages hold what their sources held, and all others stay as they were."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models.inputs import KVCache
from jaxllm.runner.page_copier import copy_pages, pack_copies
from jaxllm.runner.sharding import make_mesh, shard

NUM_PAGES = 24


def make_caches(kv_heads: int, mesh: Any) -> tuple[KVCache, ...]:
    """Two layers of numbers that are all different."""
    shape = (NUM_PAGES, 4, kv_heads, 8)
    numbers = np.arange(4 * np.prod(shape), dtype=np.float32).reshape(4, *shape)
    sharding = shard(mesh, shape, (None, None, "kv_heads", None))
    arrays = [jax.device_put(array, sharding) for array in numbers]
    return KVCache(*arrays[:2]), KVCache(*arrays[2:])


@pytest.mark.parametrize(("kv_heads", "num_devices"), [(1, 1), (2, 1), (2, 2), (4, 4)])
@pytest.mark.parametrize("num_copies", [0, 1, 8, 11])
def test_pages_are_copied_in_all_layers(kv_heads: int, num_devices: int, num_copies: int) -> None:
    mesh = make_mesh("cpu", num_devices)
    caches = make_caches(kv_heads, mesh)
    copies = [(1 + place % 3, 4 + place) for place in range(num_copies)]
    expected = [np.array(array) for array in jax.tree.leaves(caches)]
    for array in expected:
        for source, destination in copies:
            array[destination] = array[source]
    copied = jax.jit(partial(copy_pages, mesh=mesh))(caches, jnp.asarray(pack_copies(copies, 12).reshape(-1)))
    for before, array, wanted in zip(jax.tree.leaves(caches), jax.tree.leaves(copied), expected, strict=True):
        np.testing.assert_array_equal(array, wanted)
        assert array.sharding.is_equivalent_to(before.sharding, array.ndim)


def test_missing_copies_go_nowhere() -> None:
    pairs = pack_copies([(3, 7), (3, 8)], 4)
    assert pairs[:2].tolist() == [[3, 7], [3, 8]]
    assert len(set(pairs[:, 1].tolist())) == 4
    assert (pairs[2:, 1] > NUM_PAGES).all()
