"""Copies pages of the KV cache, so that beams which shared a page can each write their own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int

from jaxllm.models.inputs import KVCache
from jaxllm.steps import NO_PAGE

_CPU_CHUNK = 8
_CHUNK = 64
"""Pages that are copied together: fewer waste less on padding, more need fewer rounds."""


def pack_copies(copies: Sequence[tuple[int, int]], most: int, platform: str) -> np.ndarray:
    """(source, destination) pages as int32 [chunks, chunk, 2], with room for `most` pairs."""
    chunk = _CPU_CHUNK if platform == "cpu" else _CHUNK
    assert len(copies) <= most, f"{len(copies)} copies where at most {most} are possible"
    pairs = np.full((-(-most // chunk), chunk, 2), NO_PAGE, np.int32)
    pairs.reshape(-1, 2)[: len(copies)] = np.array(copies, np.int32).reshape(-1, 2)
    return pairs


def copy_pages(caches: tuple[KVCache, ...], pairs: Int[Array, "chunks chunk 2"], *, mesh: Mesh) -> tuple[KVCache, ...]:
    """Copies pages within all layers, in place if the caches are donated; each device copies its own heads.

    The pairs come first, padding after them. No destination may be a source too.
    """
    (axis,) = mesh.axis_names
    cache, replicated = PartitionSpec(None, None, axis), PartitionSpec()
    specs = jax.tree.map(lambda _: cache, caches)
    copied: tuple[KVCache, ...] = jax.shard_map(
        _copy_local, mesh=mesh, in_specs=(specs, replicated), out_specs=specs, check_vma=False
    )(caches, pairs)
    return copied


def _copy_local(caches: tuple[KVCache, ...], pairs: Array) -> tuple[KVCache, ...]:
    def copy_chunk(index: Array, caches: tuple[KVCache, ...]) -> tuple[KVCache, ...]:
        chunk = pairs[index]
        return jax.tree.map(partial(_copy_rows, sources=chunk[:, 0], destinations=chunk[:, 1]), caches)

    num_chunks = (pairs[:, 0, 1] != NO_PAGE).sum()
    return lax.fori_loop(0, num_chunks, copy_chunk, caches)


def _copy_rows(pool: Array, *, sources: Array, destinations: Array) -> Array:
    rows = pool.reshape(pool.shape[0], -1)
    copied = rows.at[sources].get(mode="promise_in_bounds")
    return rows.at[destinations].set(copied, mode="promise_in_bounds").reshape(pool.shape)
