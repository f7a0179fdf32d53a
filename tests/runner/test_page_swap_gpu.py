"""The same on a GPU, where kernels read and write the host's memory."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np
import pytest

from jaxllm.runner.sharding import make_mesh
from tests.runner.test_page_swap import NUM_PAGES, check_mirrored, make_caches, make_swap

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("kv_heads", [1, 3])
def test_pages_come_back(kv_heads: int, dtype: str) -> None:
    mesh = make_mesh("gpu", 1)
    caches = make_caches(mesh, kv_heads, dtype)
    expected = [np.array(pool) for pool in jax.tree.leaves(caches)]
    swap, caches = make_swap(mesh, caches, 100)
    assert swap.num_pages == 0
    wait_for_pages(swap, 100)
    saved = [(1 + place % (NUM_PAGES - 1), 99 - place) for place in range(80)]  # more than one call takes
    caches = swap.save(saved, caches)
    loaded = [(host_page, NUM_PAGES - page) for page, host_page in saved[: NUM_PAGES - 1]]
    check_mirrored(swap.load(loaded, caches), expected, [page for page, _ in saved])
    swap.delete()


def wait_for_pages(swap: Any, num_pages: int) -> None:
    swap.reserve()
    end = time.monotonic() + 10
    while swap.num_pages < num_pages:
        assert time.monotonic() < end, f"{swap.num_pages} host pages after 10 seconds"
        time.sleep(0.01)
