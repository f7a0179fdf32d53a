"""The op on NVIDIA GPUs: one Triton kernel a pool, which addresses host memory itself.

So copies need no memory on the device and no stream of their own: they stand between the steps, and what a step reads
or overwrites is always as the host planned it. On an H100 50 GB/s go out and 46 come back, whatever the block.
"""

from __future__ import annotations

from jaxtyping import Array, Int

from jaxllm.pallas_kernels.jax_triton import triton_update
from jaxllm.pallas_kernels.page_swap.triton_kernels import move_kernel
from jaxllm.steps import NO_PAGE

_WORD_BYTES = 4
_BLOCK = 1024


def move_pages(pool: Array, moves: Int[Array, "moves 3"], place: Int[Array, " 1"], *, to_host: bool) -> Array:
    """One pool's share of `api.move_pages`; `place` is the pool's among those that lie together on the host."""
    page_bytes = pool[0].size * pool.dtype.itemsize
    words, rest = divmod(page_bytes, _WORD_BYTES)
    if rest:
        raise ValueError(
            f"expected pages of a multiple of {_WORD_BYTES} bytes, got {page_bytes} of {pool.dtype}{pool.shape}"
        )
    (moved,), _ = triton_update(
        move_kernel,
        pool,
        moves,
        place,
        updated=(0,),
        out_type=(),
        grid=(moves.shape[0], -(-words // _BLOCK)),
        num_warps=4,
        num_stages=1,
        constants={"NO_PAGE": NO_PAGE, "WORDS": words, "BLOCK": _BLOCK, "TO_HOST": to_host},
    )
    return moved
