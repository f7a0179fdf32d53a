"""Types of the cache that differ from that of the activations."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

_LARGEST = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0, "float16": 65504.0}


def largest_value(dtype: Any, given: Any) -> float:
    """What larger entries of type `given` become in a cache of type `dtype`; 0 where it holds what comes."""
    return 0.0 if jnp.dtype(dtype) == jnp.dtype(given) else _LARGEST.get(jnp.dtype(dtype).name, 0.0)


def to_cache(x: Array, dtype: Any) -> Array:
    """Entries as the cache holds them. A plain conversion makes infinity or NaN of what is too large."""
    limit = largest_value(dtype, x.dtype)
    # In float32: bfloat16 rounds the largest float16 up.
    return (jnp.clip(x.astype(jnp.float32), -limit, limit) if limit else x).astype(dtype)
