"""Copies pages of all pools of a cache to host memory that the GPU can address, and back."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int

MOVE_WIDTH = 3
"""Numbers of a move: page, low and high half of a host address."""


def move_pages(caches: Any, moves: Int[Array, "moves 3"], *, to_host: bool, mesh: Mesh) -> Any:
    """Copies pages of all pools [pages, page_size, kv_heads, head_dim] to host memory or from there; GPUs only.

    Each move is a page and the address, as its low and its high 32 bits, of host memory that all devices of `mesh` can
    read and write. There a page lies as [devices, pools, page_size, kv_heads of a device, head_dim]. Page 0 stands for
    no move. Returns the caches, which are updated in place when they are donated; whoever starts programs later finds
    the copies made.
    """
    from jaxllm.pallas_kernels.page_swap import triton

    (axis,) = mesh.axis_names
    cache, everywhere = PartitionSpec(None, None, axis), PartitionSpec()
    specs = jax.tree.map(lambda _: cache, caches)
    return jax.shard_map(
        partial(_move_local, move=partial(triton.move_pages, to_host=to_host), axis=axis),
        mesh=mesh,
        in_specs=(specs, everywhere),
        out_specs=specs,
        check_vma=False,
    )(caches, moves)


def _move_local(caches: Any, moves: Array, *, move: Any, axis: str) -> Any:
    pools, treedef = jax.tree.flatten(caches)
    first = jax.lax.axis_index(axis).astype(jnp.int32) * len(pools)
    places = [jnp.reshape(first + index, (1,)) for index in range(len(pools))]
    return jax.tree.unflatten(treedef, [move(pool, moves, place) for pool, place in zip(pools, places, strict=True)])
