"""Runs a model's layers so that alike layers are traced once.

A layer becomes a function of its weights under an inner `jax.jit`, which JAX traces and lowers once for all layers of
equal structure. This is the one `jax.jit` outside the runner; it starts no program of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
from flax import nnx


def apply_layer(layer: nnx.Module, *arguments: Any) -> Any:
    """layer(*arguments), shared with every layer of equal structure."""
    graphdef, state = nnx.split(layer)
    return _function(graphdef)(state, *arguments)


@lru_cache(maxsize=64)
def _function(graphdef: nnx.GraphDef[Any]) -> Callable[..., Any]:
    def layer(state: nnx.State[Any, Any], *arguments: Any) -> Any:
        return nnx.merge(graphdef, state)(*arguments)

    return jax.jit(layer)
