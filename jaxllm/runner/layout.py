"""The shapes of a step's program, and the fields of the one buffer that goes to the device with each step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxllm.pallas_kernels.paged_attention.tiles import TILE_TOKENS
from jaxllm.runner.packed_fields import Fields, PackedFields


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


FLAGS = ("any_random", "any_penalties", "any_edits", "any_bitmask", "any_logprobs")
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


def row_parameter_dtype(name: str) -> np.dtype:
    """Of one of ROW_PARAMETERS: four bytes each."""
    if name in _ROW_FLOATS:
        return np.dtype(np.float32)
    return np.dtype(np.uint32 if name.startswith("seed") else np.int32)


@dataclass(frozen=True)
class Layout(PackedFields):
    """Fields of a bucket's buffer."""

    bucket: Bucket
    pages_per_request: int

    @cached_property
    def fields(self) -> Fields:
        tokens, rows = self.bucket.num_tokens, self.bucket.num_rows
        integer = np.dtype(np.int32)
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
            **{name: ((rows,), row_parameter_dtype(name)) for name in ROW_PARAMETERS},
            "num_decodes": ((), integer),
            "num_tiles": ((), integer),
            "flags": ((), integer),
        }
