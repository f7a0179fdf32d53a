"""Pages that were saved come back as they were, wherever they go, and no others change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import pytest

from jaxllm.models.inputs import KVCache
from jaxllm.runner.page_swap import lower_swaps, make_page_swap
from jaxllm.runner.pinned_pages import pack_moves
from jaxllm.runner.sharding import make_mesh, shard

NUM_PAGES = 48


def make_caches(mesh: Any, kv_heads: int, dtype: str) -> tuple[KVCache, ...]:
    """Two layers of random numbers."""
    shape = (NUM_PAGES, 4, kv_heads, 8)
    numbers = np.random.default_rng(0).standard_normal((4, *shape), np.float32)
    sharding = shard(mesh, shape, (None, None, "kv_heads", None))
    arrays = [jax.device_put(array.astype(jax.numpy.dtype(dtype)), sharding) for array in numbers]
    return KVCache(*arrays[:2]), KVCache(*arrays[2:])


def make_swap(mesh: Any, caches: Any, num_host_pages: int) -> tuple[Any, Any]:
    """A started swap, and the caches."""
    shapes = jax.tree.map(lambda pool: jax.ShapeDtypeStruct(pool.shape, pool.dtype, sharding=pool.sharding), caches)
    swap = make_page_swap(num_host_pages, shapes, mesh)
    programs = {name: lower().compile() for name, lower in lower_swaps(shapes, mesh, None).items()}
    return swap, swap.start(programs, caches)


def check_mirrored(caches: Any, before: list[np.ndarray], pages: Iterable[int]) -> None:
    """Whether each of the pages has been loaded as far from the end as it is from the start, bit by bit."""
    for pool, old in zip(jax.tree.leaves(caches), before, strict=True):
        wanted = old.copy()
        for page in pages:
            wanted[NUM_PAGES - page] = old[page]
        np.testing.assert_array_equal(np.asarray(pool).view(np.uint8), wanted.view(np.uint8))


@pytest.mark.parametrize(("kv_heads", "num_devices"), [(1, 1), (2, 1), (2, 2), (4, 4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
def test_pages_come_back(kv_heads: int, num_devices: int, dtype: str) -> None:
    mesh = make_mesh("cpu", num_devices)
    caches = make_caches(mesh, kv_heads, dtype)
    expected = [np.array(pool) for pool in jax.tree.leaves(caches)]
    swap, caches = make_swap(mesh, caches, 40)
    assert swap.num_pages == 40
    saved = [(1 + place, 39 - place) for place in range(20)]  # more than one call takes
    caches = swap.save(saved, caches)
    loaded = [(host_page, NUM_PAGES - page) for page, host_page in saved]
    check_mirrored(swap.load(loaded, caches), expected, [page for page, _ in saved])
    swap.delete()


def test_a_host_page_holds_what_was_saved_last() -> None:
    mesh = make_mesh("cpu", 1)
    swap, caches = make_swap(mesh, make_caches(mesh, 1, "float32"), 2)
    first = np.asarray(caches[0].keys)
    caches = swap.load([(1, 9)], swap.save([(4, 1)], swap.save([(3, 1)], caches)))
    np.testing.assert_array_equal(np.asarray(caches[0].keys)[9], first[4])


def test_moves_are_packed_as_pages_and_halves_of_addresses() -> None:
    moves = pack_moves([3, 5], [0x1_0000_0002, 0x7FFF_8000_0000]).view(np.uint32).reshape(-1, 3)
    assert moves[:2].tolist() == [[3, 2, 1], [5, 0x8000_0000, 0x7FFF]]
    assert not moves[2:].any()
