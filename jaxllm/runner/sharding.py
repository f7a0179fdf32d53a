"""The device mesh, and which logical axes of parameters and caches are split over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxllm.errors import DeviceError

MODEL_AXIS = "model"
"""The one mesh axis so far: tensor parallelism."""

RULES: dict[str, str] = {"kv_heads": MODEL_AXIS, "ffn": MODEL_AXIS, "vocab": MODEL_AXIS}
"""Logical axis to mesh axis; an axis without a rule is replicated."""


def make_mesh(device: str, tensor_parallel_size: int) -> Mesh:
    """The first `tensor_parallel_size` devices of the platform; raises DeviceError when there are too few."""
    try:
        devices = jax.devices() if device == "auto" else jax.devices(device)
    except RuntimeError as error:
        raise DeviceError(f"no {device!r} device: {error}") from error
    if len(devices) < tensor_parallel_size:
        raise DeviceError(
            f"tensor_parallel_size={tensor_parallel_size} needs as many devices, but {devices[0].platform!r} "
            f"has {len(devices)}"
        )
    return Mesh(np.array(devices[:tensor_parallel_size]), (MODEL_AXIS,), axis_types=(AxisType.Auto,))


def make_planning_mesh(num_devices: int) -> Mesh:
    """A mesh without devices, for shapes and sizes of models that this machine can't hold."""
    return cast("Mesh", AbstractMesh((num_devices,), (MODEL_AXIS,), axis_types=(AxisType.Auto,)))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def shard(mesh: Mesh, shape: Sequence[int], axes: Sequence[str | None]) -> NamedSharding:
    """Sharding of an array with these logical axes; an axis that doesn't divide evenly is replicated."""
    spec = [
        RULES[axis] if axis in RULES and size % mesh.shape[RULES[axis]] == 0 else None
        for size, axis in zip(shape, axes, strict=True)
    ]
    return NamedSharding(mesh, PartitionSpec(*spec))
