"""Types of the cache that differ from that of the activations."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

_LARGEST = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}


def largest_value(dtype: Any) -> float:
    """What larger values become in a cache of 8 bits; 0 for other types, which hold what comes."""
    return _LARGEST.get(jnp.dtype(dtype).name, 0.0)


def to_cache(x: Array, dtype: Any) -> Array:
    """Entries as the cache holds them. A plain conversion to float8_e4m3fn makes NaN of what is too large."""
    limit = largest_value(dtype)
    return (jnp.clip(x, -limit, limit) if limit else x).astype(dtype)
