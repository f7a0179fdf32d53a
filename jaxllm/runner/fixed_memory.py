"""Arrays that stay where they are on the device, and small programs that carry data into and out of them.

A CUDA graph holds the addresses of what it reads and writes. An array that was just transferred, or that a program
returns anew, lies elsewhere in each step, and XLA must then tell every kernel that touches it, which can take the host
longer than the device needs for a small model's step. So a step reads its buffer from, and leaves its results in,
arrays that never move.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxllm.runner.executables import Compiled, Lower


class FixedBuffers:
    """int32 arrays for the arguments of steps, one for each size."""

    def __init__(self, sizes: Iterable[int], everywhere: NamedSharding) -> None:
        self._arrays = {size: jnp.zeros(size, jnp.int32, device=everywhere) for size in sizes}
        self._everywhere = everywhere
        self._programs: dict[int, Compiled] = {}

    def start(self, programs: Mapping[str, Compiled]) -> None:
        """Takes the compiled programs and runs each once."""
        self._programs = {size: programs[_load(size)] for size in self._arrays}
        for size in self._arrays:
            self.put(np.zeros(size, np.int32))

    def put(self, host: np.ndarray) -> jax.Array:
        """Starts the transfer of int32 [size], which must not be changed afterwards.

        The next `put` of this size overwrites the array, after the programs that were started before it.
        """
        size = len(host)
        self._arrays[size] = self._programs[size](self._arrays[size], host)
        return self._arrays[size]

    def delete(self) -> None:
        """Frees the memory."""
        for array in self._arrays.values():
            array.delete()
        self._programs = {}


class Fetcher:
    """Copies arrays that stay on the device into new ones, which the host can read while the next step overwrites."""

    def __init__(self) -> None:
        self._programs: dict[str, Compiled] = {}

    def start(self, programs: Mapping[str, Compiled], arrays: Mapping[str, Any]) -> None:
        """Takes the compiled programs and runs each once."""
        self._programs = {name: programs[_fetch(name)] for name in arrays}
        for name, array in arrays.items():
            self.fetch(name, array)

    def fetch(self, name: str, array: Any) -> Any:
        """The copy; it is on its way to the host."""
        copied = self._programs[name](array)
        for leaf in jax.tree.leaves(copied):
            leaf.copy_to_host_async()
        return copied

    def delete(self) -> None:
        """Frees the programs."""
        self._programs = {}


_HOLES = {1 << 12: 16, 1 << 16: 16, 1 << 20: 8}
"""Bytes of the holes, and how many of each."""


def open_holes(everywhere: NamedSharding) -> list[jax.Array]:
    """Free places in the device's memory for small arrays that come and go. Returns what keeps the places apart.

    The allocator takes the smallest free place that is large enough. Without small ones it cuts pieces off the large
    place where programs have their temporary memory, which then begins elsewhere, and the graphs must be told.
    """
    holes, fences = [], []
    for size, count in _HOLES.items():
        for _ in range(count):
            holes.append(jax.device_put(np.zeros(size, np.uint8), everywhere))
            fences.append(jax.device_put(np.zeros(1, np.uint8), everywhere))
    jax.block_until_ready(fences)
    for hole in holes:
        hole.delete()
    return fences


def buffer_shape(size: int, everywhere: NamedSharding) -> Any:
    """What a program that reads a fixed buffer is lowered for."""
    return jax.ShapeDtypeStruct((size,), jnp.int32, sharding=everywhere)


def lower_loads(sizes: Iterable[int], everywhere: NamedSharding) -> dict[str, Lower]:
    """What traces and lowers each program of `FixedBuffers`."""
    return {_load(size): partial(_lower_load, buffer_shape(size, everywhere)) for size in sizes}


def lower_fetches(shapes: Mapping[str, Any]) -> dict[str, Lower]:
    """What traces and lowers each program of `Fetcher`, for shapes, or trees of shapes, with their shardings."""
    return {_fetch(name): partial(_lower_fetch, template) for name, template in shapes.items()}


def _lower_load(shape: Any) -> Any:
    program = jax.jit(lambda old, new: old.at[:].set(new), donate_argnums=0, out_shardings=shape.sharding)
    return program.lower(shape, shape)


def _lower_fetch(template: Any) -> Any:
    shardings = jax.tree.map(lambda shape: shape.sharding, template)
    return jax.jit(partial(jax.tree.map, jnp.copy), out_shardings=shardings).lower(template)


def _load(size: int) -> str:
    return f"load_{size}"


def _fetch(name: str) -> str:
    return f"fetch_{name}"
