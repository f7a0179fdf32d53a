import re

import jax
import pytest
from jax.sharding import PartitionSpec

from jaxllm.errors import DeviceError
from jaxllm.runner.sharding import make_mesh, replicated, shard


def test_a_mesh_takes_the_first_devices() -> None:
    mesh = make_mesh("cpu", 2)
    assert mesh.axis_names == ("model",)
    assert mesh.devices.tolist() == jax.devices("cpu")[:2]


@pytest.mark.parametrize(
    ("shape", "axes", "spec"),
    [
        ((4, 3, 8), ("kv_heads", None, None), PartitionSpec("model", None, None)),
        ((8, 4), (None, "ffn"), PartitionSpec(None, "model")),
        ((10, 8), ("vocab", None), PartitionSpec("model", None)),
        ((9, 8), ("vocab", None), PartitionSpec(None, None)),
        ((4, 4), ("an axis without a rule", None), PartitionSpec(None, None)),
    ],
)
def test_axes_with_a_rule_are_split_where_they_divide_evenly(
    shape: tuple[int, ...], axes: tuple[str | None, ...], spec: PartitionSpec
) -> None:
    assert shard(make_mesh("cpu", 2), shape, axes).spec == spec


def test_replicated_arrays_are_whole_on_every_device() -> None:
    sharding = replicated(make_mesh("cpu", 2))
    assert sharding.is_fully_replicated
    assert len(sharding.device_set) == 2


def test_too_many_devices_are_refused() -> None:
    wanted = len(jax.devices("cpu")) + 1
    message = f"tensor_parallel_size={wanted} needs as many devices, but 'cpu' has {wanted - 1}"
    with pytest.raises(DeviceError, match=re.escape(message)):
        make_mesh("cpu", wanted)


def test_a_platform_that_is_not_there_is_refused() -> None:
    with pytest.raises(DeviceError, match="no 'abacus' device: "):
        make_mesh("abacus", 1)
