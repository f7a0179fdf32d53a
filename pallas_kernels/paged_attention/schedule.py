"""Which program of the decode kernel reads which part of which row's context.

The grid is fixed when a step is compiled, the contexts are not known then. So the step computes a list of items from
them on the device, once for all its layers: a row is cut into as many items as bring all programs of the grid about
the same number of cached tokens, whether that is one row of 32k tokens or 256 short ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Int

NO_ROW = -1
"""Row of the items that are not used."""
SPLIT_BITS = 16
"""An item's last column is its index among the items of its row, and above so many bits the number of these."""


@dataclass(frozen=True, kw_only=True)
class DecodeGrid:
    """Shape of the grid, known when the step is compiled."""

    rows: int
    max_items: int
    """Most items that the contexts of `rows` rows can be cut into."""
    kv_heads: int
    block: int
    """Cached tokens that a program takes at a time."""
    max_splits: int
    """Most items that one row can be cut into."""
    programs: int
    """Programs wanted at work, over all key-value heads."""
    min_blocks: int
    """Blocks below which an item is not worth its share of adding up."""

    @classmethod
    def of(
        cls, *, rows: int, max_context: int, kv_heads: int, block: int, programs: int, min_blocks: int
    ) -> DecodeGrid:
        max_splits = min(-(-programs // kv_heads), -(-max_context // (block * min_blocks)))
        return cls(
            rows=rows,
            max_items=rows + min(programs // kv_heads, rows * max_splits),
            kv_heads=kv_heads,
            block=block,
            max_splits=max_splits,
            programs=programs,
            min_blocks=min_blocks,
        )


def decode_items(
    grid: DecodeGrid, *, first: Int[Array, " rows"], end: Int[Array, " rows"], is_row: Int[Array, " rows"]
) -> Int[Array, "items 4"]:
    """(row, first token, end, split | splits << SPLIT_BITS) of each item; rows where `is_row` have at least one.

    A row's items are neighbours and cover its cached tokens from the block of `first` to `end`, which may be empty.
    """
    start = first // grid.block * grid.block
    blocks = jnp.where(is_row, jnp.maximum(-(-(end - start) // grid.block), 0), 0)
    share = jnp.maximum(-(-(blocks.sum(dtype=jnp.int32) * grid.kv_heads) // grid.programs), grid.min_blocks)
    splits = jnp.where(is_row, jnp.maximum(-(-blocks // share), 1), 0)
    tokens = -(-blocks // jnp.maximum(splits, 1)) * grid.block  # of each item
    ends = jnp.cumsum(splits, dtype=jnp.int32)
    index = jnp.arange(grid.max_items, dtype=jnp.int32)
    row = (ends[None, :] <= index[:, None]).sum(axis=1, dtype=jnp.int32)
    inside = jnp.minimum(row, grid.rows - 1)
    split = index - (ends - splits)[inside]
    item_start = start[inside] + split * tokens[inside]
    item_end = jnp.minimum(item_start + tokens[inside], end[inside])
    columns = (
        jnp.where(row < grid.rows, row, NO_ROW),
        item_start,
        item_end,
        split | (splits[inside] << SPLIT_BITS),
    )
    return jnp.stack(columns, axis=1)
