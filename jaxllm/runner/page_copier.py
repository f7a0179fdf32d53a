"""Copies pages of the KV cache, so that beams which shared a page can each write their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int

from jaxllm.models.inputs import KVCache
from jaxllm.runner.compiler_options import CompilerOptions
from jaxllm.runner.executables import Compiled, Lower
from jaxllm.runner.fixed_memory import FixedBuffers, buffer_shape, lower_loads
from jaxllm.runner.sharding import replicated
from jaxllm.steps import NO_PAGE

Caches = tuple[KVCache, ...]

_NOWHERE = 1 << 30
"""Larger than every page: writes there are dropped."""


class PageCopier:
    """The programs, by the number of pages that they copy. They work in place: the caches are donated."""

    def __init__(self, sizes: Sequence[int], mesh: Mesh) -> None:
        self._sizes = sizes
        self._pairs = FixedBuffers([2 * size for size in sizes], replicated(mesh))
        self._programs: dict[int, Compiled] = {}

    def start(self, programs: Mapping[str, Compiled], caches: Caches) -> Caches:
        """Takes the compiled programs and runs each once; returns the caches."""
        self._pairs.start(programs)
        self._programs = {size: programs[_name(size)] for size in self._sizes}
        for size in self._sizes:
            caches = self._run(size, [], caches)
        return caches

    def copy(self, copies: Sequence[tuple[int, int]], caches: Caches) -> Caches:
        """Starts copying (source, destination) pages, at most as many as the largest program takes."""
        size = next(size for size in self._sizes if size >= len(copies))
        return self._run(size, copies, caches)

    def delete(self) -> None:
        """Frees the programs and their memory."""
        self._pairs.delete()
        self._programs = {}

    def _run(self, size: int, copies: Sequence[tuple[int, int]], caches: Caches) -> Caches:
        pairs = self._pairs.put(pack_copies(copies, size).reshape(-1))
        copied: Caches = self._programs[size](caches, pairs)
        return copied


def lower_copies(sizes: Sequence[int], caches: Caches, mesh: Mesh, options: CompilerOptions | None) -> dict[str, Lower]:
    """What traces and lowers each program of `PageCopier` for caches of these shapes."""
    loads = lower_loads([2 * size for size in sizes], replicated(mesh))
    return loads | {_name(size): partial(_lower, size, caches, mesh, options) for size in sizes}


def _lower(size: int, caches: Caches, mesh: Mesh, options: CompilerOptions | None) -> Any:
    shardings = jax.tree.map(lambda cache: cache.sharding, caches)
    program = jax.jit(
        partial(copy_pages, mesh=mesh), donate_argnums=0, out_shardings=shardings, compiler_options=options
    )
    return program.lower(caches, buffer_shape(2 * size, replicated(mesh)))


def pack_copies(copies: Sequence[tuple[int, int]], size: int) -> np.ndarray:
    """(source, destination) pages as int32 [size, 2], filled up with copies to different pages that do not exist."""
    pairs = np.full((size, 2), NO_PAGE, np.int32)
    pairs[:, 1] = _NOWHERE + np.arange(size)
    pairs[: len(copies)] = np.array(copies, np.int32).reshape(-1, 2)
    return pairs


def copy_pages(caches: Caches, pairs: Int[Array, " numbers"], *, mesh: Mesh) -> Caches:
    """Copies pages within all layers; each device copies its own heads.

    `pairs` are source, destination, source, destination and so on; no destination may be a source too.
    """
    (axis,) = mesh.axis_names
    cache, everywhere = PartitionSpec(None, None, axis), PartitionSpec()
    specs = jax.tree.map(lambda _: cache, caches)
    copied: Caches = jax.shard_map(
        _copy_local, mesh=mesh, in_specs=(specs, everywhere), out_specs=specs, check_vma=False
    )(caches, pairs.reshape(-1, 2))
    return copied


def _copy_local(caches: Caches, pairs: Array) -> Caches:
    return jax.tree.map(partial(_copy_in_pool, sources=pairs[:, 0], destinations=pairs[:, 1]), caches)


def _copy_in_pool(pool: Array, *, sources: Array, destinations: Array) -> Array:
    # In the pool's own shape: on the GPU, reshaping pages to rows copies the whole pool.
    copied = pool.at[sources].get(mode="promise_in_bounds")
    return pool.at[destinations].set(copied, mode="drop", unique_indices=True)


def _name(size: int) -> str:
    return f"page_copies_{size}"
