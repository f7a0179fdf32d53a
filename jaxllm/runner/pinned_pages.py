"""Host pages of NVIDIA GPUs, whose kernels address pinned memory themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxllm.models.inputs import KVCache
from jaxllm.pallas_kernels.page_swap.api import MOVE_WIDTH, move_pages
from jaxllm.runner.compiler_options import CompilerOptions
from jaxllm.runner.executables import Compiled, Lower
from jaxllm.runner.fixed_memory import FixedBuffers, buffer_shape, lower_loads
from jaxllm.runner.pinned_memory import PinnedMemory
from jaxllm.runner.sharding import replicated
from jaxllm.steps import NO_PAGE

Caches = tuple[KVCache, ...]

_SAVE, _LOAD = "page_saves", "page_loads"
_MOVES = 64
"""Moves of one call: as many pages of 16 tokens as a sequence of 1024 has."""
_BLOCK_BYTES = 64 << 20


class PinnedPages:
    """See `page_swap.PageSwap`."""

    def __init__(self, num_pages: int, caches: Caches, mesh: Mesh) -> None:
        self._page_bytes = sum(math.prod(pool.shape[1:]) * pool.dtype.itemsize for pool in jax.tree.leaves(caches))
        self._pages_per_block = max(1, min(num_pages, _BLOCK_BYTES // self._page_bytes))
        self._memory = PinnedMemory(
            mesh.devices.flat[0],
            block_bytes=self._pages_per_block * self._page_bytes,
            num_blocks=num_pages // self._pages_per_block,
        )
        self._moves = FixedBuffers([_MOVES * MOVE_WIDTH], replicated(mesh))
        self._programs: dict[str, Compiled] = {}

    @property
    def num_pages(self) -> int:
        return self._memory.num_blocks * self._pages_per_block

    def reserve(self) -> None:
        self._memory.grow()

    def start(self, programs: Mapping[str, Compiled], caches: Caches) -> Caches:
        self._moves.start(programs)
        self._programs = {name: programs[name] for name in (_SAVE, _LOAD)}
        for name in self._programs:
            caches = self._run(name, [], caches)
        return caches

    def save(self, moves: Sequence[tuple[int, int]], caches: Caches) -> Caches:
        return self._run_all(_SAVE, moves, caches)

    def load(self, moves: Sequence[tuple[int, int]], caches: Caches) -> Caches:
        return self._run_all(_LOAD, [(page, host_page) for host_page, page in moves], caches)

    def delete(self) -> None:
        self._moves.delete()
        self._memory.close()
        self._programs = {}

    def _run_all(self, name: str, moves: Sequence[tuple[int, int]], caches: Caches) -> Caches:
        for start in range(0, len(moves), _MOVES):
            caches = self._run(name, moves[start : start + _MOVES], caches)
        return caches

    def _run(self, name: str, moves: Sequence[tuple[int, int]], caches: Caches) -> Caches:
        addresses = [self._address(host_page) for _, host_page in moves]
        moved: Caches = self._programs[name](
            caches, self._moves.put(pack_moves([page for page, _ in moves], addresses))
        )
        return moved

    def _address(self, host_page: int) -> int:
        block, place = divmod(host_page, self._pages_per_block)
        return self._memory.address(block) + place * self._page_bytes


def pack_moves(pages: Sequence[int], addresses: Sequence[int]) -> np.ndarray:
    """Moves as `page_swap.api.move_pages` takes them, flat and filled up with NO_PAGE."""
    moves = np.full((_MOVES, MOVE_WIDTH), NO_PAGE, np.uint32)
    moves[: len(pages), 0] = pages
    moves[: len(pages), 1:] = np.array(addresses, "<u8").view("<u4").reshape(-1, 2)
    return moves.reshape(-1).view(np.int32)


def lower_pinned_pages(caches: Caches, mesh: Mesh, options: CompilerOptions | None) -> dict[str, Lower]:
    """What traces and lowers each program of `PinnedPages`."""
    return {
        **lower_loads([_MOVES * MOVE_WIDTH], replicated(mesh)),
        _SAVE: partial(_lower, caches, mesh, options, to_host=True),
        _LOAD: partial(_lower, caches, mesh, options, to_host=False),
    }


def _lower(caches: Caches, mesh: Mesh, options: CompilerOptions | None, *, to_host: bool) -> Any:
    def move(caches: Any, moves: Any) -> Any:
        return move_pages(caches, moves.reshape(-1, MOVE_WIDTH), to_host=to_host, mesh=mesh)

    shardings = jax.tree.map(lambda cache: cache.sharding, caches)
    program = jax.jit(move, donate_argnums=0, out_shardings=shardings, compiler_options=options)
    return program.lower(caches, buffer_shape(_MOVES * MOVE_WIDTH, replicated(mesh)))
