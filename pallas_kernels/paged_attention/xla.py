"""Paged attention in plain jax.numpy: the path of the CPU.

Blocks of `BLOCK_TOKENS` cached tokens are gathered from the pages and folded into a running softmax (Milakov and
Gimelshein 2018; Dao et al. 2022), in float32. The number of blocks is read from the inputs, so a step pays for the
contexts it has, not for the longest it could have. Decode rows go through in groups, prompt chunks tile by tile.

XLA's CPU backend decides the shapes here. A gather is a memcpy only if each page is one row of a matrix. Many small
matrix products are slow, so with few key-value heads a row's queries are laid out block-diagonally, and one product
over all heads does more arithmetic in less time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int

from jaxllm.pallas_kernels.paged_attention.cache_types import to_cache
from jaxllm.pallas_kernels.paged_attention.tiles import TILE_TOKENS

BLOCK_TOKENS = 256
DECODE_ROWS = 32
"""Decode rows that go through the loop over blocks together."""
MASKED = -1e30


class _Running(NamedTuple):
    """Running softmax: the largest score, the sum of exponentials and the weighted sum of values so far."""

    largest: Float[Array, ...]
    total: Float[Array, ...]
    weighted: Float[Array, "... head_dim"]


class _Pages(NamedTuple):
    """The cache with a page per row, and what is needed to read it back."""

    keys: Float[Array, "pages row"]
    values: Float[Array, "pages row"]
    page_size: int
    kv_heads: int
    head_dim: int
    dtype: Any
    """Of the activations, in which blocks come."""

    @property
    def block_pages(self) -> int:
        return max(1, BLOCK_TOKENS // self.page_size)

    @property
    def block_tokens(self) -> int:
        return self.block_pages * self.page_size

    def block(self, table: Int[Array, "*rows pages"], index: Array) -> tuple[Array, Array]:
        """Keys and values of block `index` of each row, [*rows, block tokens, kv_heads, head_dim]."""
        ids = jax.lax.dynamic_slice_in_dim(table, index * self.block_pages, self.block_pages, axis=-1)
        shape = (*table.shape[:-1], self.block_tokens, self.kv_heads, self.head_dim)
        keys, values = (pool.at[ids.reshape(-1)].get(mode="promise_in_bounds") for pool in (self.keys, self.values))
        return keys.reshape(shape).astype(self.dtype), values.reshape(shape).astype(self.dtype)


def paged_attention(
    query: Float[Array, "tokens kv_heads group head_dim"],
    key: Float[Array, "tokens kv_heads head_dim"],
    value: Float[Array, "tokens kv_heads head_dim"],
    keys: Float[Array, "pages page_size kv_heads head_dim"],
    values: Float[Array, "pages page_size kv_heads head_dim"],
    inputs: Any,
    *,
    spec: Any,
    sinks: Float[Array, "kv_heads group"] | None = None,
) -> tuple[Array, Array, Array]:
    """See `api.paged_attention`."""
    shape, (page_size, kv_heads, head_dim) = keys.shape, keys.shape[1:]
    keys, values = _write(keys, key, inputs.slot_mapping), _write(values, value, inputs.slot_mapping)
    pages = _Pages(keys.reshape(shape[0], -1), values.reshape(shape[0], -1), page_size, kv_heads, head_dim, query.dtype)
    short = -inputs.page_tables.shape[1] % pages.block_pages
    inputs = inputs._replace(page_tables=jnp.pad(inputs.page_tables, ((0, 0), (0, short))))
    out = jnp.zeros(query.shape, query.dtype)
    out = _decode(out, query, pages, inputs, spec, sinks)
    if inputs.tiles.shape[0]:
        out = _chunks(out, query, pages, inputs, spec, sinks)
    return out, keys, values


def _write(pool: Array, new: Array, slots: Int[Array, " tokens"]) -> Array:
    # With one key-value head XLA else takes the layouts of that axis of length 1 for different, and copies the pool.
    pinned = Layout(major_to_minor=tuple(range(pool.ndim)))
    rows = with_layout_constraint(pool, pinned).reshape(pool.shape[0] * pool.shape[1], -1)
    rows = rows.at[slots].set(to_cache(new.reshape(new.shape[0], -1), pool.dtype), mode="promise_in_bounds")
    return with_layout_constraint(rows.reshape(pool.shape), pinned)


def _decode(out: Array, query: Array, pages: _Pages, inputs: Any, spec: Any, sinks: Array | None) -> Array:
    """Fills the rows below `num_decodes`, a group of rows at a time."""
    num_rows = min(inputs.page_tables.shape[0], query.shape[0])
    size = min(DECODE_ROWS, num_rows)
    if size == num_rows and not inputs.tiles.shape[0]:
        return _decode_group(query[:size], inputs.page_tables[:size], inputs.context_lens[:size], pages, spec, sinks)

    def group(index: Array, out: Array) -> Array:
        # The last group is moved back to stay inside; rows it shares with the group before get the same result.
        start = jnp.minimum(index * size, num_rows - size)
        rows = jax.lax.dynamic_slice_in_dim(query, start, size)
        table = jax.lax.dynamic_slice_in_dim(inputs.page_tables, start, size)
        lens = jax.lax.dynamic_slice_in_dim(inputs.context_lens, start, size)
        lens = jnp.where(start + jnp.arange(size, dtype=jnp.int32) < inputs.num_decodes, lens, 1)
        attended = _decode_group(rows, table, lens, pages, spec, sinks)
        return jax.lax.dynamic_update_slice_in_dim(out, attended, start, axis=0)

    return jax.lax.fori_loop(0, (inputs.num_decodes + size - 1) // size, group, out)


def _decode_group(query: Array, table: Array, lens: Array, pages: _Pages, spec: Any, sinks: Array | None) -> Array:
    """Attention of one token a row, [rows, kv_heads, group, head_dim]."""
    rows, kv_heads, group, head_dim = query.shape
    first_kept = jnp.zeros_like(lens) if spec.window is None else jnp.maximum(lens - spec.window, 0)
    offsets = jnp.arange(pages.block_tokens, dtype=jnp.int32)
    diagonal = jnp.eye(kv_heads, dtype=query.dtype)[None, :, None, :, None]
    spread = (query[:, :, :, None, :] * diagonal).reshape(rows, kv_heads * group, kv_heads * head_dim)

    def fold(index: Array, running: _Running) -> _Running:
        keys, values = (block.reshape(rows, pages.block_tokens, -1) for block in pages.block(table, index))
        scores = jax.lax.dot_general(
            spread, keys, (((2,), (2,)), ((0,), (0,))), preferred_element_type=jnp.float32
        )  # [rows, heads, block tokens]
        places = index * pages.block_tokens + offsets
        kept = (places[None] < lens[:, None]) & (places[None] >= first_kept[:, None])
        exponentials, running = _fold_scores(running, scores, kept[:, None], spec)
        products = jax.lax.dot_general(
            exponentials.astype(values.dtype), values, (((2,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32
        ).reshape(rows, kv_heads, group, kv_heads, head_dim)
        own = jnp.stack([products[:, head, :, head] for head in range(kv_heads)], axis=1)
        return running._replace(weighted=running.weighted + own.reshape(rows, kv_heads * group, head_dim))

    blocks = (jnp.max(lens) + pages.block_tokens - 1) // pages.block_tokens
    first = jnp.min(first_kept) // pages.block_tokens
    running = _start((rows, kv_heads * group), head_dim, None if sinks is None else sinks.reshape(-1))
    running = jax.lax.fori_loop(first, blocks, fold, running)
    return _finish(running).astype(query.dtype).reshape(query.shape)


def _chunks(out: Array, query: Array, pages: _Pages, inputs: Any, spec: Any, sinks: Array | None) -> Array:
    """Fills the tokens of prompt chunks. Tiles ascend, so what one writes past its end the next one overwrites."""
    tokens = query.shape[0]
    size = min(TILE_TOKENS, tokens)
    padding = ((0, size), (0, 0), (0, 0), (0, 0))
    query = jnp.pad(query, padding)
    positions = jnp.pad(inputs.positions, (0, size))

    def tile(index: Array, out: Array) -> Array:
        row, start, count = inputs.tiles[index]
        attended = _tile(
            jax.lax.dynamic_slice_in_dim(query, start, size),
            jax.lax.dynamic_slice_in_dim(positions, start, size),
            positions[start + count - 1] + 1,
            inputs.page_tables[row],
            pages,
            spec,
            sinks,
        )
        return jax.lax.dynamic_update_slice_in_dim(out, attended, start, axis=0)

    return jax.lax.fori_loop(0, inputs.num_tiles, tile, jnp.pad(out, padding))[:tokens]


def _tile(
    query: Array, positions: Array, context: Array, table: Array, pages: _Pages, spec: Any, sinks: Array | None
) -> Array:
    """Causal attention of consecutive tokens of one request, [tile, kv_heads, group, head_dim]."""
    size, kv_heads, group, head_dim = query.shape
    heads_first = query.transpose(1, 2, 0, 3).reshape(kv_heads, group * size, head_dim)
    offsets = jnp.arange(pages.block_tokens, dtype=jnp.int32)

    def fold(index: Array, running: _Running) -> _Running:
        keys, values = (block.transpose(1, 0, 2) for block in pages.block(table, index))
        scores = jax.lax.dot_general(
            heads_first, keys, (((2,), (2,)), ((0,), (0,))), preferred_element_type=jnp.float32
        ).reshape(kv_heads, group, size, -1)
        places = (index * pages.block_tokens + offsets)[None]
        kept = places <= positions[:, None]
        if spec.window is not None:
            kept &= places > positions[:, None] - spec.window
        exponentials, running = _fold_scores(running, scores, kept[None, None], spec)
        products = jax.lax.dot_general(
            exponentials.astype(values.dtype).reshape(kv_heads, group * size, -1),
            values,
            (((2,), (1,)), ((0,), (0,))),
            preferred_element_type=jnp.float32,
        )
        return running._replace(weighted=running.weighted + products.reshape(running.weighted.shape))

    first = 0 if spec.window is None else jnp.maximum(positions[0] - spec.window + 1, 0) // pages.block_tokens
    blocks = (context + pages.block_tokens - 1) // pages.block_tokens
    running = _start((kv_heads, group, size), head_dim, None if sinks is None else sinks[:, :, None])
    running = jax.lax.fori_loop(first, blocks, fold, running)
    return _finish(running).astype(query.dtype).transpose(2, 0, 1, 3)


def _start(shape: tuple[int, ...], head_dim: int, sinks: Array | None) -> _Running:
    """Nothing yet, or the sinks: scores whose values are zero."""
    weighted = jnp.zeros((*shape, head_dim), jnp.float32)
    if sinks is None:
        return _Running(jnp.full(shape, MASKED, jnp.float32), jnp.zeros(shape, jnp.float32), weighted)
    largest = jnp.broadcast_to(sinks.astype(jnp.float32), shape)
    return _Running(largest, jnp.ones(shape, jnp.float32), weighted)


def _fold_scores(running: _Running, scores: Array, kept: Array, spec: Any) -> tuple[Array, _Running]:
    """Exponentials of a block's scores, and the running softmax rescaled to its new largest score."""
    scores = scores * spec.scale
    if spec.soft_cap is not None:
        scores = spec.soft_cap * jnp.tanh(scores / spec.soft_cap)
    scores = jnp.where(kept, scores, MASKED)
    largest = jnp.maximum(running.largest, jnp.max(scores, axis=-1))
    # A row whose block is masked whole keeps largest = MASKED; its exponentials must still be zero.
    exponentials = jnp.where(kept, jnp.exp(scores - largest[..., None]), 0.0)
    shrink = jnp.exp(running.largest - largest)
    total = running.total * shrink + jnp.sum(exponentials, axis=-1)
    return exponentials, _Running(largest, total, running.weighted * shrink[..., None])


def _finish(running: _Running) -> Array:
    return running.weighted / jnp.maximum(running.total, 1e-30)[..., None]
