"""A matrix times one vector: the product that a decode step of a single request consists of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxllm.pallas_kernels.matrix_vector import cpu


def matrix_vector(x: Float[Array, "1 in"], weight: Float[Array, "out in"]) -> Float[Array, "1 out"]:
    """x W^T in x's dtype. On the CPU a 16-bit weight is read at the speed of memory; elsewhere it is XLA's product."""
    if x.dtype == jnp.float32:
        return product(x, weight)
    return jax.lax.platform_dependent(x, weight, cpu=cpu.matrix_vector, default=product)


def product(x: Float[Array, "rows in"], weight: Float[Array, "out in"]) -> Float[Array, "rows out"]:
    """XLA's own x W^T."""
    return jax.lax.dot_general(x, weight, (((1,), (1,)), ((), ())))
