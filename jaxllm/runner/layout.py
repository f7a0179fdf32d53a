"""The one int32 buffer that goes to the device with each step: what lies where.

The host fills NumPy views of the buffer, the traced step slices the same fields out of it again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.pallas_kernels.paged_attention.tiles import TILE_TOKENS
from jaxllm.steps import MAX_BEAM_END_IDS


@dataclass(frozen=True)
class Bucket:
    """Shapes of one program."""

    num_tokens: int
    """Length of the token axis."""
    num_rows: int
    """Requests, padding included."""
    has_chunks: bool
    """Whether prompt chunks may come, or only one token per row."""

    @property
    def num_tiles(self) -> int:
        """Most tiles that `num_tokens` tokens of `num_rows` requests can be cut into."""
        return self.num_tokens // TILE_TOKENS + self.num_rows if self.has_chunks else 0

    @property
    def name(self) -> str:
        return f"{'mixed' if self.has_chunks else 'decode'}_{self.num_tokens}x{self.num_rows}"


_ALIGNMENT = 4
"""Fields start at multiples of so many words: the GPU's kernels read them in place, in pieces of 16 bytes."""

FLAGS = ("any_random", "any_penalties", "any_edits", "any_bitmask", "any_logprobs", "any_prompt_logprobs", "any_beams")
"""Bits of the `flags` field, lowest first."""

_ROW_FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
ROW_PARAMETERS = (*_ROW_FLOATS, "top_k", "seed_low", "seed_high")
"""Per-request constants, kept by slot on the host and copied into each step's rows."""


@dataclass(frozen=True)
class Layout:
    """Fields of a bucket's buffer: name, shape and dtype of each, one after the other."""

    bucket: Bucket
    pages_per_request: int

    @cached_property
    def fields(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        tokens, rows = self.bucket.num_tokens, self.bucket.num_rows
        integer, unsigned, floating = np.dtype(np.int32), np.dtype(np.uint32), np.dtype(np.float32)
        return {
            "token_ids": ((tokens,), integer),
            "positions": ((tokens,), integer),
            "slot_mapping": ((tokens,), integer),
            "targets": ((tokens if self.bucket.has_chunks else 0,), integer),
            "page_tables": ((rows, self.pages_per_request), integer),
            "context_lens": ((rows,), integer),
            "tiles": ((self.bucket.num_tiles, 3), integer),
            "sample_tokens": ((rows,), integer),
            "slot": ((rows,), integer),
            "write_slot": ((rows,), integer),
            "draw_position": ((rows,), integer),
            "top_k": ((rows,), integer),
            "seed_low": ((rows,), unsigned),
            "seed_high": ((rows,), unsigned),
            **dict.fromkeys(_ROW_FLOATS, ((rows,), floating)),
            "beam_width": ((rows,), integer),
            "beam_place": ((rows,), integer),
            "beam_score": ((rows,), floating),
            "beam_temperature": ((rows,), floating),
            "beam_end_ids": ((rows, MAX_BEAM_END_IDS), integer),
            "num_decodes": ((), integer),
            "num_tiles": ((), integer),
            "flags": ((), integer),
        }

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
