"""Residual add and root mean square norm in one pass over the tokens."""

from __future__ import annotations

from functools import partial

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from jaxllm.pallas_kernels.add_norm import reference


def add_rms_norm(
    x: Float[Array, "tokens size"],
    delta: Float[Array, "tokens size"],
    weight: Float[Array, " size"],
    *,
    eps: float,
    offset: float,
    mesh: Mesh,
) -> tuple[Array, Array]:
    """(x + delta rounded to their dtype, the norm of that); all arrays lie whole on every device of `mesh`."""
    if x.shape != delta.shape or x.dtype != delta.dtype or weight.shape != x.shape[1:]:
        raise ValueError(
            f"expected two arrays of one shape and dtype and a weight of their last axis, got {x.dtype}{x.shape}, "
            f"{delta.dtype}{delta.shape} and {weight.shape}"
        )
    if mesh.devices.flat[0].platform != "gpu":
        return reference.add_rms_norm(x, delta, weight, eps=eps, offset=offset)
    # Imported at the first call: triton is there on GPUs only.
    from jaxllm.pallas_kernels.add_norm import triton

    everywhere = PartitionSpec()
    return jax.shard_map(
        partial(triton.add_rms_norm, eps=eps, offset=offset),
        mesh=mesh,
        in_specs=(everywhere, everywhere, everywhere),
        out_specs=(everywhere, everywhere),
        check_vma=False,
    )(x, delta, weight)
