"""The op on NVIDIA GPUs: one Triton program a token, the token's vector in registers between the two passes."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from jaxllm.pallas_kernels.add_norm.triton_kernels import add_norm_kernel
from jaxllm.pallas_kernels.jax_triton import triton_update

_ENTRIES_PER_WARP = 512


def add_rms_norm(
    x: Float[Array, "tokens size"],
    delta: Float[Array, "tokens size"],
    weight: Float[Array, " size"],
    delta_weight: Float[Array, " size"] | None = None,
    *,
    eps: float,
    offset: float,
) -> tuple[Array, Array]:
    """See `api.add_rms_norm`."""
    tokens, size = x.shape
    block = 1 << (size - 1).bit_length()
    like_x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    _, (total, normed) = triton_update(
        add_norm_kernel,
        x,
        delta,
        weight,
        weight if delta_weight is None else delta_weight,
        updated=(),
        out_type=(like_x, like_x),
        grid=(tokens,),
        num_warps=min(16, max(1, block // _ENTRIES_PER_WARP)),
        num_stages=1,
        constants={
            "NORMS_DELTA": delta_weight is not None,
            "SIZE": size,
            "BLOCK": block,
            "EPS": float(eps),
            "OFFSET": float(offset),
        },
    )
    return total, normed
