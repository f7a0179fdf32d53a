"""The definition of the op in plain jax.numpy; also the path of the CPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


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
    if delta_weight is not None:
        delta = rms_norm(delta, delta_weight, eps=eps, offset=offset)
    total = x + delta
    return total, rms_norm(total, weight, eps=eps, offset=offset)


def rms_norm(
    x: Float[Array, "*batch size"], weight: Float[Array, " size"], *, eps: float, offset: float
) -> Float[Array, "*batch size"]:
    """Root mean square norm (Zhang and Sennrich 2019) in float32, rounded to x's dtype; `offset` adds to the weight."""
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    factors = weight.astype(jnp.float32) + offset
    return (x32 * scale * jnp.expand_dims(factors, tuple(range(x.ndim - 1)))).astype(x.dtype)
