"""Weights as flax NNX parameters that know their checkpoint names and logical axes.

A port builds its modules with `parameter(...)`: nothing is allocated, the parameter holds a shape and says which
checkpoint tensors fill it, how they are put together, and which axis may be sharded. The runner flattens them once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import jax
import numpy as np
from flax import nnx

Assemble = Callable[[list[np.ndarray]], np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class ParameterInfo:
    """Everything about one parameter but its values."""

    name: str
    """Path in the module tree, for example layers.0.attention.qkv."""
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    """Logical axis of each dimension; `jaxllm.runner.sharding` maps them to the mesh."""
    sources: tuple[str, ...]
    """Checkpoint tensors, in the order `assemble` takes them."""
    assemble: Assemble | None
    """Builds the parameter from its sources; None takes the single source as it is."""


def parameter(
    shape: Sequence[int], axes: Sequence[str | None], sources: str | Sequence[str], assemble: Assemble | None = None
) -> nnx.Param[jax.Array]:
    """An unfilled parameter. `axes` has one entry per dimension."""
    assert len(shape) == len(axes), f"{len(shape)} dimensions but {len(axes)} axes"
    names = (sources,) if isinstance(sources, str) else tuple(sources)
    # A shape stands where the array will be: the type says what a filled model holds.
    placeholder = cast("jax.Array", jax.ShapeDtypeStruct(tuple(shape), np.float32))
    return nnx.Param(placeholder, axes=tuple(axes), sources=names, assemble=assemble)


def describe[Model: nnx.Module](
    model: Model,
) -> tuple[nnx.GraphDef[Model], list[ParameterInfo], jax.tree_util.PyTreeDef]:
    """Splits an unfilled model into its structure, its parameters in leaf order, and the tree of the leaves."""
    _, state = nnx.split(model)
    infos = [
        ParameterInfo(
            name=".".join(str(part) for part in path),
            shape=tuple(variable.get_value().shape),
            axes=variable.get_metadata()["axes"],
            sources=variable.get_metadata()["sources"],
            assemble=variable.get_metadata()["assemble"],
        )
        for path, variable in nnx.to_flat_state(state)
    ]
    _forget_sources(model)
    graphdef, state = nnx.split(model)
    leaves, treedef = jax.tree.flatten(state)
    assert [leaf.shape for leaf in leaves] == [info.shape for info in infos], "every parameter is one leaf, in order"
    return graphdef, infos, treedef


def _forget_sources(model: nnx.Module) -> None:
    """Drops what only loading needs, so that layers that differ in nothing else have the same structure."""
    for _, variable in nnx.iter_graph(model):
        if isinstance(variable, nnx.Param):
            for name in ("axes", "sources", "assemble"):
                variable.del_metadata(name)
