"""Many small arrays in one int32 buffer, which is one transfer to the device: what lies where.

The host fills NumPy views of the buffer, the traced program slices the same fields out of it again.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

_ALIGNMENT = 4
"""Fields start at multiples of so many words: the GPU's kernels read them in place, in pieces of 16 bytes."""

Fields = dict[str, tuple[tuple[int, ...], np.dtype]]
"""Shape and dtype, which has 4 bytes, by name."""


class PackedFields(ABC):
    """Fields one after the other in a buffer of int32."""

    @property
    @abstractmethod
    def fields(self) -> Fields:
        """The fields in their order."""

    @cached_property
    def size(self) -> int:
        """Length of the buffer in 4-byte words."""
        return sum(_aligned(math.prod(shape)) for shape, _ in self.fields.values())

    def views(self, buffer: np.ndarray) -> dict[str, np.ndarray]:
        """Writable views of int32 [size]."""
        views, start = {}, 0
        for name, (shape, dtype) in self.fields.items():
            end = start + math.prod(shape)
            views[name] = buffer[start:end].view(dtype).reshape(shape)
            start = _aligned(end)
        return views

    def unpack(self, buffer: jax.Array) -> Mapping[str, jax.Array]:
        """The fields of a traced int32 [size]."""
        arrays, start = {}, 0
        for name, (shape, dtype) in self.fields.items():
            end = start + math.prod(shape)
            piece = buffer[start:end].reshape(shape)
            arrays[name] = piece if dtype == np.int32 else jax.lax.bitcast_convert_type(piece, jnp.dtype(dtype))
            start = _aligned(end)
        return arrays


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
