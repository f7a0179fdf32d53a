"""Paged attention on NVIDIA GPUs: a step of decode rows is one Triton kernel, a step with chunks three."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxllm.pallas_kernels.jax_triton import compute_capability, triton_update
from jaxllm.pallas_kernels.paged_attention import hopper
from jaxllm.pallas_kernels.paged_attention.cache_types import largest_value
from jaxllm.pallas_kernels.paged_attention.heads import HeadInputs
from jaxllm.pallas_kernels.paged_attention.schedule import DecodeGrid, decode_items
from jaxllm.pallas_kernels.paged_attention.tiles import TILE_TOKENS
from jaxllm.pallas_kernels.paged_attention.triton_chunk_kernels import chunk_kernel, prepare_kernel
from jaxllm.pallas_kernels.paged_attention.triton_decode_kernels import decode_kernel, decode_step_kernel


@dataclass(frozen=True, kw_only=True)
class DecodeTuning:
    """How the decode kernels are cut up."""

    programs: int
    """Programs that share the contexts, if these are long enough."""
    min_blocks: int
    """Blocks below which a context is not shared."""
    block_bytes: int
    """What a block of keys takes of shared memory; as much again for values, times the stages of the pipeline."""
    num_warps: int
    num_stages: int


@dataclass(frozen=True, kw_only=True)
class ChunkTuning:
    """How the chunk kernel is cut up."""

    query_block: int
    block: int
    num_warps: int
    num_stages: int = 2
    packs: bool = True
    """Whether the query heads of a group share a program, if their number is a power of two up to 8."""


# Measured on an H100 with benchmarks/gpu_attention.py and other values, see benchmarks/RESULTS.md.
_FEWEST_ROWS = DecodeTuning(programs=132, min_blocks=4, block_bytes=16384, num_warps=4, num_stages=4)
_FEW_ROWS = DecodeTuning(programs=264, min_blocks=4, block_bytes=16384, num_warps=4, num_stages=4)
_MANY_ROWS = DecodeTuning(programs=396, min_blocks=8, block_bytes=8192, num_warps=2, num_stages=4)
_PREPARED_ENTRIES = 2048
"""What a program of the kernel that prepares takes of the projections, padding included."""
_FEW, _MANY = 64, 256
"""Rows times key-value heads up to which every multiprocessor has one program, and all end together; and from which on
the rows alone keep a GPU busy."""


def paged_attention(
    qkv: Float[Array, "tokens kv_heads members head_dim"],
    heads: HeadInputs,
    keys: Float[Array, "pages page_size kv_heads head_dim"],
    values: Float[Array, "pages page_size kv_heads head_dim"],
    inputs: Any,
    *,
    spec: Any,
) -> tuple[Array, Array, Array]:
    """See `api.paged_attention`."""
    constants = _constants(qkv, heads, keys, inputs, spec)
    if not inputs.tiles.shape[0]:
        return decode_step(qkv, heads, keys, values, inputs, spec, constants)
    query, keys, values = prepare(qkv, heads, keys, values, inputs, spec, constants)
    sinks = _sinks(heads, inputs)
    query = chunks(query, keys, values, sinks, inputs, constants)
    return decode(query, keys, values, sinks, inputs, constants), keys, values


def decode_step(
    qkv: Array,
    heads: HeadInputs,
    keys: Array,
    values: Array,
    inputs: Any,
    spec: Any,
    constants: dict[str, Any],
    tuning: DecodeTuning | None = None,
) -> tuple[Array, Array, Array]:
    """All of a step without chunks. Rows of padding attend to themselves alone and are written to page 0."""
    rows, kv_heads, members, head_dim = qkv.shape
    tuning = tuning or _decode_tuning(rows * kv_heads)
    grid = _grid(qkv, keys, inputs, constants, tuning)
    lens = inputs.context_lens[:rows]
    items = _items(grid, lens, lens - 1, jnp.ones((rows,), bool), constants["WINDOW"])
    outputs = (
        jax.ShapeDtypeStruct((rows, kv_heads, members - 2, head_dim), qkv.dtype),
        *_scratch(grid, members - 2, head_dim),
    )
    (keys, values), (out, _, _) = triton_update(
        decode_step_kernel,
        qkv,
        keys,
        values,
        *_head_arguments(heads, inputs),
        _sinks(heads, inputs),
        inputs.page_tables,
        lens,
        items,
        jnp.zeros((rows, kv_heads), jnp.int32),
        updated=(1, 2),
        out_type=outputs,
        grid=(kv_heads, grid.max_items),
        num_warps=tuning.num_warps,
        num_stages=tuning.num_stages,
        constants={
            **constants,
            **_decode_constants(constants, grid),
            **_head_constants(heads, spec),
            "CACHE_LIMIT": largest_value(keys.dtype, qkv.dtype),
        },
    )
    return out, keys, values


def decode(
    query: Array,
    keys: Array,
    values: Array,
    sinks: Array,
    inputs: Any,
    constants: dict[str, Any],
    tuning: DecodeTuning | None = None,
) -> Array:
    """Replaces the queries of the rows below `num_decodes`, whose keys and values are in the cache."""
    tokens, kv_heads, group, head_dim = query.shape
    rows = min(inputs.page_tables.shape[0], tokens)
    tuning = tuning or _decode_tuning(rows * kv_heads)
    grid = _grid(query, keys, inputs, constants, tuning)
    lens = inputs.context_lens[:rows]
    is_decode = jnp.arange(rows, dtype=jnp.int32) < inputs.num_decodes
    items = _items(grid, lens, lens, is_decode, constants["WINDOW"])
    (query,), _ = triton_update(
        decode_kernel,
        query,
        keys,
        values,
        sinks,
        inputs.page_tables,
        lens,
        items,
        jnp.zeros((rows, kv_heads), jnp.int32),
        updated=(0,),
        out_type=_scratch(grid, group, head_dim),
        grid=(kv_heads, grid.max_items),
        num_warps=tuning.num_warps,
        num_stages=tuning.num_stages,
        constants={**constants, **_decode_constants(constants, grid)},
    )
    return query


def prepare(
    qkv: Array, heads: HeadInputs, keys: Array, values: Array, inputs: Any, spec: Any, constants: dict[str, Any]
) -> tuple[Array, Array, Array]:
    """(query [tokens, kv_heads, group, head_dim], keys, values) with every token's entries in the cache."""
    tokens, kv_heads, members, head_dim = qkv.shape
    head_block = _power_of_two_above(members)
    half_block = _power_of_two_above(head_dim // 2)
    token_block = max(1, _PREPARED_ENTRIES // (head_block * 2 * half_block))
    names = ("KV_HEADS", "GROUP", "HEAD_DIM")
    (keys, values), (query,) = triton_update(
        prepare_kernel,
        keys,
        values,
        qkv,
        *_head_arguments(heads, inputs),
        inputs.slot_mapping,
        updated=(0, 1),
        out_type=(jax.ShapeDtypeStruct((tokens, kv_heads, members - 2, head_dim), qkv.dtype),),
        grid=(kv_heads, -(-tokens // token_block)),
        num_warps=4,
        num_stages=1,
        constants={
            **{name: constants[name] for name in names},
            "HALF_BLOCK": half_block,
            **_head_constants(heads, spec),
            "CACHE_LIMIT": largest_value(keys.dtype, qkv.dtype),
            "TOKENS": tokens,
            "TOKEN_BLOCK": token_block,
            "HEAD_BLOCK": head_block,
        },
    )
    return query, keys, values


def chunks(
    query: Array,
    keys: Array,
    values: Array,
    sinks: Array,
    inputs: Any,
    constants: dict[str, Any],
    tuning: ChunkTuning | None = None,
) -> Array:
    """Replaces the queries of prompt chunks, whose keys and values are in the cache."""
    if tuning is None and hopper.suits(query, keys):
        return hopper.chunks(query, keys, values, sinks, inputs, constants)
    _, kv_heads, group, _ = query.shape
    tuning = tuning or _chunk_tuning(query.dtype, constants["DIM_BLOCK"])
    packs = tuning.packs and group in (1, 2, 4, 8) and tuning.query_block >= 16 * group
    pack = group if packs else 1
    tile_pieces = -(-TILE_TOKENS * pack // tuning.query_block)
    (query,), _ = triton_update(
        chunk_kernel,
        query,
        keys,
        values,
        sinks,
        inputs.positions,
        inputs.page_tables,
        inputs.tiles,
        inputs.num_tiles.reshape(1),
        updated=(0,),
        out_type=(),
        grid=(kv_heads * group // pack, tile_pieces, inputs.tiles.shape[0]),
        num_warps=tuning.num_warps,
        num_stages=tuning.num_stages,
        constants={
            **constants,
            "QUERY_BLOCK": tuning.query_block,
            "PACK": pack,
            "BLOCK": tuning.block,
        },
    )
    return query


def _decode_tuning(num_groups: int) -> DecodeTuning:
    tuning = _FEWEST_ROWS if num_groups <= _FEW else _MANY_ROWS if num_groups >= _MANY else _FEW_ROWS
    # Other generations have less shared memory for a deep pipeline.
    return tuning if compute_capability() == 90 else replace(tuning, num_stages=2)


def _chunk_tuning(dtype: Any, dim_block: int) -> ChunkTuning:
    is_wide = dim_block > 128
    if dtype == jnp.float32:
        return ChunkTuning(query_block=16 if is_wide else 32, block=32, num_warps=4, packs=False)
    if is_wide:
        return ChunkTuning(query_block=64, block=32, num_warps=4)
    # Blocks of 128 want more shared memory than other generations have.
    block = 128 if compute_capability() == 90 else 64
    return ChunkTuning(query_block=128, block=block, num_warps=8)


def _constants(qkv: Array, heads: HeadInputs, keys: Array, inputs: Any, spec: Any) -> dict[str, Any]:
    """Compile-time constants of all attention kernels."""
    _, kv_heads, members, head_dim = qkv.shape
    return {
        "KV_HEADS": kv_heads,
        "GROUP": members - 2,
        "HEAD_DIM": head_dim,
        "PAGE_SIZE": keys.shape[1],
        "TABLE_PAGES": inputs.page_tables.shape[1],
        "WINDOW": spec.window or 0,
        "SCALE": float(spec.scale),
        "SOFT_CAP": float(spec.soft_cap or 0.0),
        "HAS_SINKS": heads.sinks is not None,
        "DIM_BLOCK": max(16, _power_of_two_above(head_dim)),
        # float32 models are run in float32, not in the matrix units' shorter tf32.
        "PRECISION": "ieee" if qkv.dtype == jnp.float32 else "tf32",
    }


def _grid(query: Array, keys: Array, inputs: Any, constants: dict[str, Any], tuning: DecodeTuning) -> DecodeGrid:
    rows = min(inputs.page_tables.shape[0], query.shape[0])
    # Blocks are converted in shared memory, too, which float32 blocks of as many tokens as 8 bits allow would fill.
    itemsize = max(keys.dtype.itemsize, query.dtype.itemsize // 2)
    block = max(16, min(128, tuning.block_bytes // (constants["DIM_BLOCK"] * itemsize)))
    return DecodeGrid.of(
        rows=rows,
        max_context=inputs.page_tables.shape[1] * keys.shape[1],
        kv_heads=keys.shape[2],
        block=block,
        programs=tuning.programs,
        min_blocks=tuning.min_blocks,
    )


def _items(grid: DecodeGrid, lens: Array, end: Array, is_row: Array, window: int) -> Int[Array, "items 4"]:
    first = jnp.maximum(lens - window, 0) if window else jnp.zeros_like(lens)
    return decode_items(grid, first=first, end=end, is_row=is_row)


def _scratch(grid: DecodeGrid, group: int, head_dim: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """What the items of a row leave for the one that adds them up."""
    return (
        jax.ShapeDtypeStruct((grid.max_items, grid.kv_heads, group, head_dim), jnp.float32),
        jax.ShapeDtypeStruct((grid.max_items, grid.kv_heads, 2, group), jnp.float32),
    )


def _decode_constants(constants: dict[str, Any], grid: DecodeGrid) -> dict[str, Any]:
    members = _power_of_two_above(constants["GROUP"])
    return {
        "GROUP_BLOCK": max(16, members),
        "MEMBERS": members,
        "BLOCK": grid.block,
        "SPLITS": _power_of_two_above(grid.max_splits),
    }


def _head_arguments(heads: HeadInputs, inputs: Any) -> tuple[Array, Array, Array, Array]:
    """(q_norm, k_norm, cos, sin), with arrays that the kernel doesn't read in place of the missing."""
    unread = inputs.positions
    q_norm, k_norm = (unread if norm is None else norm for norm in (heads.q_norm, heads.k_norm))
    cos, sin = (unread, unread) if heads.rope is None else heads.rope
    return q_norm, k_norm, cos, sin


def _sinks(heads: HeadInputs, inputs: Any) -> Array:
    """The heads' sinks, or an array that the kernels don't read."""
    return inputs.positions if heads.sinks is None else heads.sinks


def _head_constants(heads: HeadInputs, spec: Any) -> dict[str, Any]:
    return {
        "EPS": float(spec.norm_eps),
        "OFFSET": float(spec.norm_offset),
        "HAS_NORM": heads.q_norm is not None,
        "HAS_ROPE": heads.rope is not None,
    }


def _power_of_two_above(size: int) -> int:
    """The smallest power of two that holds `size`."""
    return 1 << (size - 1).bit_length()
