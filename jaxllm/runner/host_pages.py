"""Host pages as numpy arrays, for devices whose kernels can't address the host's memory, and for the CPU itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from jaxllm.models.inputs import KVCache
from jaxllm.runner.compiler_options import CompilerOptions
from jaxllm.runner.executables import Compiled, Lower
from jaxllm.runner.fixed_memory import buffer_shape
from jaxllm.runner.sharding import replicated
from jaxllm.steps import NO_PAGE

Caches = tuple[KVCache, ...]

_SAVE, _LOAD = "page_saves", "page_loads"
_MOVES = 16
"""Pages of one call; the device holds copies of as many."""
_NOWHERE = 1 << 30
"""Larger than every page: writes there are dropped."""


class HostPages:
    """See `page_swap.PageSwap`. Memory is taken as pages come, and given back as they are loaded."""

    def __init__(self, num_pages: int, mesh: Mesh) -> None:
        self.num_pages = num_pages
        self._everywhere = replicated(mesh)
        self._programs: dict[str, Compiled] = {}
        self._pages: dict[int, np.ndarray] = {}
        """[pools, page_size, kv_heads, head_dim] by host page."""

    def reserve(self) -> None:
        """Nothing takes time here."""

    def start(self, programs: Mapping[str, Compiled], caches: Caches) -> Caches:
        self._programs = {name: programs[name] for name in (_SAVE, _LOAD)}
        pages = self._programs[_SAVE](caches, self._put([], NO_PAGE))
        loaded: Caches = self._programs[_LOAD](caches, self._put([], _NOWHERE), np.asarray(pages))
        return loaded

    def save(self, moves: Sequence[tuple[int, int]], caches: Caches) -> Caches:
        for part in _parts(moves):
            copies = np.asarray(self._programs[_SAVE](caches, self._put([page for page, _ in part], NO_PAGE)))
            for (_, host_page), copy in zip(part, copies, strict=False):
                self._pages[host_page] = copy.copy()
        return caches

    def load(self, moves: Sequence[tuple[int, int]], caches: Caches) -> Caches:
        for part in _parts(moves):
            copies = [self._pages.pop(host_page) for host_page, _ in part]
            pages = np.stack(copies + [copies[0]] * (_MOVES - len(part)))
            caches = self._programs[_LOAD](caches, self._put([page for _, page in part], _NOWHERE), pages)
        return caches

    def delete(self) -> None:
        self._pages.clear()
        self._programs = {}

    def _put(self, pages: Sequence[int], filler: int) -> Any:
        ids = np.full(_MOVES, filler, np.int32)
        ids[len(pages) :] += np.arange(_MOVES - len(pages), dtype=np.int32) if filler == _NOWHERE else 0
        ids[: len(pages)] = pages
        return jax.device_put(ids, self._everywhere)


def _parts(moves: Sequence[tuple[int, int]]) -> list[Sequence[tuple[int, int]]]:
    return [moves[start : start + _MOVES] for start in range(0, len(moves), _MOVES)]


def lower_host_pages(caches: Caches, mesh: Mesh, options: CompilerOptions | None) -> dict[str, Lower]:
    """What traces and lowers each program of `HostPages`."""
    return {name: partial(lower, caches, mesh, options) for name, lower in ((_SAVE, _lower_save), (_LOAD, _lower_load))}


def _lower_save(caches: Caches, mesh: Mesh, options: CompilerOptions | None) -> Any:
    program = jax.jit(_take, out_shardings=_shared_out(mesh), compiler_options=options)
    return program.lower(caches, buffer_shape(_MOVES, replicated(mesh)))


def _lower_load(caches: Caches, mesh: Mesh, options: CompilerOptions | None) -> Any:
    pools = jax.tree.leaves(caches)
    pages: Any = jax.ShapeDtypeStruct(
        (_MOVES, len(pools), *pools[0].shape[1:]), pools[0].dtype, sharding=_shared_out(mesh)
    )
    shardings = jax.tree.map(lambda cache: cache.sharding, caches)
    program = jax.jit(_put_back, donate_argnums=0, out_shardings=shardings, compiler_options=options)
    return program.lower(caches, buffer_shape(_MOVES, replicated(mesh)), pages)


def _shared_out(mesh: Mesh) -> NamedSharding:
    """Each device copies its own heads."""
    (axis,) = mesh.axis_names
    return NamedSharding(mesh, PartitionSpec(None, None, None, axis))


def _take(caches: Caches, ids: Int[Array, " moves"]) -> Array:
    """[moves, pools, page_size, kv_heads, head_dim]"""
    return jnp.stack([pool.at[ids].get(mode="promise_in_bounds") for pool in jax.tree.leaves(caches)], axis=1)


def _put_back(caches: Caches, ids: Int[Array, " moves"], pages: Array) -> Caches:
    pools, treedef = jax.tree.flatten(caches)
    written = [pool.at[ids].set(pages[:, index], mode="drop", unique_indices=True) for index, pool in enumerate(pools)]
    filled: Caches = jax.tree.unflatten(treedef, written)
    return filled
