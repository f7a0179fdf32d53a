"""Residual add and root mean square norms in one pass over the tokens."""

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
    delta_weight: Float[Array, " size"] | None = None,
    *,
    eps: float,
    offset: float,
    mesh: Mesh,
) -> tuple[Array, Array]:
    """(x + delta rounded to their dtype, the norm of that); all arrays lie whole on every device of `mesh`.

    With a `delta_weight` it is the norm of delta, rounded too, that is added. Both norms have the same eps and offset.
    """
    weights = (weight,) if delta_weight is None else (weight, delta_weight)
    if x.shape != delta.shape or x.dtype != delta.dtype or any(one.shape != x.shape[1:] for one in weights):
        raise ValueError(
            f"expected two arrays of one shape and dtype and weights of their last axis, got {x.dtype}{x.shape}, "
            f"{delta.dtype}{delta.shape} and {', '.join(str(one.shape) for one in weights)}"
        )
    if mesh.devices.flat[0].platform != "gpu":
        return reference.add_rms_norm(x, delta, *weights, eps=eps, offset=offset)
    # Imported at the first call: triton is there on GPUs only.
    from jaxllm.pallas_kernels.add_norm import triton

    everywhere = PartitionSpec()
    arrays = (x, delta, *weights)
    return jax.shard_map(
        partial(triton.add_rms_norm, eps=eps, offset=offset),
        mesh=mesh,
        in_specs=(everywhere,) * len(arrays),
        out_specs=(everywhere, everywhere),
        check_vma=False,
    )(*arrays)
