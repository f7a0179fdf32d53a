import jax
import numpy as np
import pytest
from flax import nnx

from jaxllm.models.llama import Llama
from jaxllm.models.parameters import describe, parameter
from tests.models.helpers import make_config, make_mesh


class Layer(nnx.Module):
    def __init__(self, prefix: str, size: int = 2) -> None:
        self.weight = parameter((size, 3), ("ffn", None), [f"{prefix}.a", f"{prefix}.b"], np.concatenate)
        self.bias = parameter((size,), (None,), f"{prefix}.bias")


class Model(nnx.Module):
    def __init__(self, *sizes: int) -> None:
        self.layers = nnx.List([Layer(f"layers.{layer}", size) for layer, size in enumerate(sizes)])
        self.norm = parameter((3,), (None,), "norm")


def test_every_parameter_is_described_in_the_order_of_the_leaves() -> None:
    _, infos, _ = describe(Model(2, 2))
    assert [(info.name, info.shape, info.axes, info.sources) for info in infos] == [
        ("layers.0.bias", (2,), (None,), ("layers.0.bias",)),
        ("layers.0.weight", (2, 3), ("ffn", None), ("layers.0.a", "layers.0.b")),
        ("layers.1.bias", (2,), (None,), ("layers.1.bias",)),
        ("layers.1.weight", (2, 3), ("ffn", None), ("layers.1.a", "layers.1.b")),
        ("norm", (3,), (None,), ("norm",)),
    ]
    assert [info.assemble for info in infos] == [None, np.concatenate, None, np.concatenate, None]


def test_more_than_nine_layers_keep_their_order() -> None:
    _, infos, _ = describe(Model(*range(1, 13)))
    assert [info.shape for info in infos if info.name.endswith("bias")] == [(size,) for size in range(1, 13)]


def test_a_model_filled_with_leaves_has_each_where_it_belongs() -> None:
    graphdef, infos, treedef = describe(Model(1, 2))
    leaves = [np.full(info.shape, index) for index, info in enumerate(infos)]
    model = nnx.merge(graphdef, jax.tree.unflatten(treedef, leaves))
    assert model.layers[1].weight[...].tolist() == [[3, 3, 3], [3, 3, 3]]
    assert model.norm[...].tolist() == [4, 4, 4]


def test_layers_that_differ_in_names_only_share_a_structure() -> None:
    model = Model(2, 2, 5)
    describe(model)
    first, second, wider = (nnx.split(layer) for layer in model.layers)
    assert first[0] == second[0]
    assert hash(first[0]) == hash(second[0])
    assert first[0] == wider[0]


def test_layers_of_a_port_share_a_structure() -> None:
    model = Llama(make_config(), make_mesh())
    describe(model)
    assert len({nnx.split(layer)[0] for layer in model.layers}) == 1


def test_every_dimension_needs_an_axis() -> None:
    with pytest.raises(AssertionError, match="2 dimensions but 1 axes"):
        parameter((2, 3), ("ffn",), "weight")
