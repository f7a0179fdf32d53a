"""A 16-bit matrix times one vector in plain jax.numpy, in the form that XLA's CPU backend runs fastest.

XLA multiplies a single 16-bit row one number at a time, and packs the weights anew at each call for two rows or more.
Here a row of the weight is cut into pieces of `lanes` neighbours, and all pieces times their part of the vector are
added up in one expression: an elementwise loop over [out, lanes] that LLVM turns into vector instructions and that
reads the weight once, in order. Sums are in float32; a second product, with ones, adds up the lanes.

What it gives a whole decode step of one request is in benchmarks/RESULTS.md, before and after; no kept benchmark times
the product alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FEWEST_LANES = 16
"""One register of AVX-512 in float32."""
MOST_PIECES = 96
"""Longer expressions are slower: their parts of the vector no longer stay close to the core."""


def matrix_vector(x: Float[Array, "1 in"], weight: Float[Array, "out in"]) -> Float[Array, "1 out"]:
    """See `api.matrix_vector`."""
    num_rows, size = weight.shape
    lanes = _lanes(size)
    num_pieces = size // lanes
    if num_pieces == 0:
        return _product(x, weight)[None].astype(x.dtype)
    whole = num_pieces * lanes
    pieces = weight[:, :whole].reshape(num_rows, num_pieces, lanes)
    parts = x[0, :whole].astype(jnp.float32).reshape(num_pieces, lanes)
    sums = pieces[:, 0].astype(jnp.float32) * parts[:1]
    for index in range(1, num_pieces):
        sums = sums + pieces[:, index].astype(jnp.float32) * parts[index : index + 1]
    # Behind a barrier, else the sum over lanes would join the loop and end its use of vector instructions.
    sums = jax.lax.optimization_barrier(sums)  # [out, lanes]
    out = sums @ jnp.ones((lanes,), jnp.float32)
    if whole < size:
        out = out + _product(x[:, whole:], weight[:, whole:])
    return out[None].astype(x.dtype)


def _lanes(size: int) -> int:
    lanes = FEWEST_LANES
    while size // lanes > MOST_PIECES:
        lanes *= 2
    return lanes


def _product(x: Float[Array, "1 few"], weight: Float[Array, "out few"]) -> Float[Array, " out"]:
    return (weight.astype(jnp.float32) * x.astype(jnp.float32)).sum(axis=-1)
