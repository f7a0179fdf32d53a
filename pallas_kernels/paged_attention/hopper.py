"""Prompt chunks on Hopper GPUs: the kernel with groups of warps that bring blocks and groups that attend."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxllm.pallas_kernels.jax_triton import boxes, compute_capability, num_cores, triton_update

BLOCK = 128
"""Cached tokens that a program takes at a time."""
STAGES = 2
"""Blocks of keys, and of values, that shared memory holds."""
BOX_WIDTH = 64
_LAST = 2**31 - 1


def suits(query: Float[Array, "tokens kv_heads group head_dim"], keys: Float[Array, "pages page_size ..."]) -> bool:
    """Whether the kernel takes these: a Hopper GPU, 16 bits, heads of 64 or 128, whole pages in a block."""
    return (
        compute_capability() == 90
        and query.dtype in (jnp.bfloat16, jnp.float16)
        and keys.dtype == query.dtype
        and query.shape[3] in (64, 128)
        and keys.shape[1] in (16, 32, 64, 128)
    )


def chunks(query: Array, keys: Array, values: Array, sinks: Array, inputs: Any, constants: dict[str, Any]) -> Array:
    """See `triton.chunks`."""
    from jaxllm.pallas_kernels.paged_attention.hopper_kernels import chunk_hopper_kernel

    _, kv_heads, group, _ = query.shape
    pack = group if group in (1, 2, 4, 8, 16) else 1
    names = ("KV_HEADS", "GROUP", "HEAD_DIM", "PAGE_SIZE", "TABLE_PAGES", "WINDOW", "SCALE", "SOFT_CAP", "HAS_SINKS")
    (query,), _ = triton_update(
        chunk_hopper_kernel,
        query,
        _page_boxes(keys),
        _page_boxes(values),
        sinks,
        inputs.positions,
        inputs.page_tables,
        _by_context(inputs),
        inputs.num_tiles.reshape(1),
        updated=(0,),
        out_type=(),
        grid=(min(num_cores(), kv_heads * group * inputs.tiles.shape[0]),),
        num_warps=4,
        num_stages=STAGES,
        constants={**{name: constants[name] for name in names}, "PACK": pack, "BLOCK": BLOCK, "STAGES": STAGES},
    )
    return query


def _by_context(inputs: Any) -> Int[Array, "tiles 3"]:
    """The tiles from the shortest context to the longest: the kernel shares them out from the longest down."""
    contexts = inputs.positions[inputs.tiles[:, 1]] + inputs.tiles[:, 2]
    is_tile = jnp.arange(len(contexts), dtype=jnp.int32) < inputs.num_tiles
    return inputs.tiles[jnp.argsort(jnp.where(is_tile, contexts, _LAST))]


def _page_boxes(pool: Array) -> Any:
    pages, page_size, kv_heads, head_dim = pool.shape
    return boxes(pool.reshape(pages * page_size, kv_heads * head_dim), (page_size, BOX_WIDTH))
