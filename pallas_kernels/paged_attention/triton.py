"""Paged attention on NVIDIA GPUs: an XLA scatter for the cache write, then the Triton kernels.

The attended vectors replace the query in its own buffer, so rows of padding tokens keep their query.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxllm.pallas_kernels.jax_triton import triton_call, triton_update
from jaxllm.pallas_kernels.paged_attention.tiles import TILE_TOKENS
from jaxllm.pallas_kernels.paged_attention.triton_kernels import chunk_kernel, combine_kernel, decode_kernel

_DECODE_PROGRAMS = 1024
"""Programs of the decode kernel that keep a GPU of some hundred multiprocessors busy."""
_MAX_SPLITS = 32
_BLOCK_BYTES = 16384
"""What a block of keys takes of shared memory; as much again for values, times the stages of the pipeline."""


def paged_attention(
    query: Float[Array, "tokens kv_heads group head_dim"],
    key: Float[Array, "tokens kv_heads head_dim"],
    value: Float[Array, "tokens kv_heads head_dim"],
    keys: Float[Array, "pages page_size kv_heads head_dim"],
    values: Float[Array, "pages page_size kv_heads head_dim"],
    inputs: Any,
    *,
    spec: Any,
) -> tuple[Array, Array, Array]:
    """See `api.paged_attention`."""
    keys, values = _write(keys, key, inputs.slot_mapping), _write(values, value, inputs.slot_mapping)
    constants = _constants(query, keys, inputs, spec)
    out = query
    if inputs.tiles.shape[0]:
        out = _chunks(out, keys, values, inputs, constants)
    return _decode(out, keys, values, inputs, constants), keys, values


def _write(pool: Array, new: Array, slots: Int[Array, " tokens"]) -> Array:
    rows = pool.reshape(pool.shape[0] * pool.shape[1], -1)
    rows = rows.at[slots].set(new.reshape(new.shape[0], -1).astype(pool.dtype), mode="promise_in_bounds")
    return rows.reshape(pool.shape)


def _constants(query: Array, keys: Array, inputs: Any, spec: Any) -> dict[str, Any]:
    """Compile-time constants of both attention kernels."""
    _, kv_heads, group, head_dim = query.shape
    return {
        "KV_HEADS": kv_heads,
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "PAGE_SIZE": keys.shape[1],
        "TABLE_PAGES": inputs.page_tables.shape[1],
        "WINDOW": spec.window or 0,
        "SCALE": float(spec.scale),
        "SOFT_CAP": float(spec.soft_cap or 0.0),
        "DIM_BLOCK": _padded(head_dim),
        # float32 models are run in float32, not in the matrix units' shorter tf32.
        "PRECISION": "ieee" if query.dtype == jnp.float32 else "tf32",
    }


def _decode(out: Array, keys: Array, values: Array, inputs: Any, constants: dict[str, Any]) -> Array:
    """Replaces the queries of the rows below `num_decodes`."""
    tokens, kv_heads, group, head_dim = out.shape
    rows = min(inputs.page_tables.shape[0], tokens)
    block = _block(constants["DIM_BLOCK"], keys.dtype.itemsize)
    blocks = -(-inputs.page_tables.shape[1] * keys.shape[1] // block)
    splits = min(_power_of_two(_DECODE_PROGRAMS // (rows * kv_heads)), _power_of_two(blocks), _MAX_SPLITS)
    num_decodes = inputs.num_decodes.reshape(1)
    partial, stats = triton_call(
        decode_kernel,
        out,
        keys,
        values,
        inputs.page_tables,
        inputs.context_lens,
        num_decodes,
        out_type=(
            jax.ShapeDtypeStruct((rows, kv_heads, splits, group, head_dim), jnp.float32),
            jax.ShapeDtypeStruct((rows, kv_heads, splits, 2, group), jnp.float32),
        ),
        grid=(kv_heads, splits, rows),
        num_warps=4,
        num_stages=2,
        constants={**constants, "SPLITS": splits, "GROUP_BLOCK": _padded(group), "BLOCK": block},
    )
    names = ("KV_HEADS", "GROUP", "HEAD_DIM", "DIM_BLOCK")
    return triton_update(
        combine_kernel,
        out,
        partial,
        stats,
        num_decodes,
        grid=(kv_heads * group, rows),
        num_warps=4 if splits > 4 else 1,
        num_stages=1,
        constants={**{name: constants[name] for name in names}, "SPLITS": splits},
    )


def _chunks(out: Array, keys: Array, values: Array, inputs: Any, constants: dict[str, Any]) -> Array:
    """Replaces the queries of prompt chunks."""
    _, kv_heads, group, _ = out.shape
    is_wide = constants["DIM_BLOCK"] > 128
    if out.dtype == jnp.float32:
        query_block, block, num_warps = (16 if is_wide else 32), 32, 4
    else:
        query_block, block, num_warps = (64, 32, 4) if is_wide else (128, 64, 8)
    return triton_update(
        chunk_kernel,
        out,
        keys,
        values,
        inputs.positions,
        inputs.page_tables,
        inputs.tiles,
        inputs.num_tiles.reshape(1),
        grid=(kv_heads * group, TILE_TOKENS // query_block, inputs.tiles.shape[0]),
        num_warps=num_warps,
        num_stages=2,
        constants={**constants, "QUERY_BLOCK": query_block, "BLOCK": block},
    )


def _block(dim_block: int, itemsize: int) -> int:
    """Cached tokens that a decode program takes at a time."""
    return max(16, min(128, _BLOCK_BYTES // (dim_block * itemsize)))


def _padded(size: int) -> int:
    """The power of two, at least 16, that holds `size`."""
    return max(16, 1 << (size - 1).bit_length())


def _power_of_two(size: int) -> int:
    """The largest power of two up to `size`, at least 1."""
    return 1 << max(size.bit_length() - 1, 0)
