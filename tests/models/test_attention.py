import numpy as np
import pytest

from jaxllm.errors import UnsupportedModelError
from jaxllm.models.attention import Attention, HeadLayout
from jaxllm.models.parameters import describe
from tests.models.helpers import make_config, make_mesh


def layout(num_heads: int, num_kv_heads: int, num_shards: int) -> HeadLayout:
    config = make_config(num_attention_heads=num_heads, num_key_value_heads=num_kv_heads, head_dim=2)
    return HeadLayout.of(config, num_shards)


@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "num_shards", "expected"),
    [
        (8, 2, 1, HeadLayout(kv_heads=2, group=4, repeat=1, head_dim=2)),
        (8, 2, 2, HeadLayout(kv_heads=2, group=4, repeat=1, head_dim=2)),
        (8, 2, 4, HeadLayout(kv_heads=4, group=2, repeat=2, head_dim=2)),
        (8, 1, 8, HeadLayout(kv_heads=8, group=1, repeat=8, head_dim=2)),
    ],
)
def test_every_shard_owns_whole_groups(
    num_heads: int, num_kv_heads: int, num_shards: int, expected: HeadLayout
) -> None:
    assert layout(num_heads, num_kv_heads, num_shards) == expected


@pytest.mark.parametrize(("num_heads", "num_kv_heads", "num_shards"), [(9, 3, 2), (12, 3, 2), (12, 3, 4), (8, 8, 16)])
def test_heads_that_cannot_be_split_evenly_are_refused(num_heads: int, num_kv_heads: int, num_shards: int) -> None:
    message = (
        f"tensor_parallel_size={num_shards} can't split {num_heads} query heads and {num_kv_heads} key-value heads "
        "evenly"
    )
    with pytest.raises(UnsupportedModelError, match=message):
        layout(num_heads, num_kv_heads, num_shards)


def fused(num_devices: int) -> list[list[int]]:
    """The first column of the fused matrix of 4 query heads (rows 0-7) and 2 key-value heads (100-103, 200-203)."""
    attention = Attention(make_config(head_dim=2), 0, "a", mesh=make_mesh(num_devices))
    info = {info.name: info for info in describe(attention)[1]}["qkv"]
    assert info.sources == ("a.q_proj.weight", "a.k_proj.weight", "a.v_proj.weight")
    assert info.assemble is not None
    rows = (np.arange(8), np.arange(100, 104), np.arange(200, 204))
    matrix = info.assemble([np.repeat(row[:, None], 16, axis=1) for row in rows])
    assert matrix.shape == info.shape
    return matrix[:, :, 0].tolist()


def test_each_group_lies_beside_its_key_and_value() -> None:
    assert fused(1) == [[0, 1, 2, 3, 100, 101, 200, 201], [4, 5, 6, 7, 102, 103, 202, 203]]


def test_key_value_heads_are_repeated_for_more_shards() -> None:
    assert fused(4) == [
        [0, 1, 100, 101, 200, 201],
        [2, 3, 100, 101, 200, 201],
        [4, 5, 102, 103, 202, 203],
        [6, 7, 102, 103, 202, 203],
    ]


def test_parameters_that_a_model_lacks_are_not_made() -> None:
    _, infos, _ = describe(Attention(make_config(), 0, "a", mesh=make_mesh()))
    assert [info.name for info in infos] == ["out", "qkv"]


def test_biases_and_norms_of_queries_and_keys() -> None:
    attention = Attention(make_config(attention_bias=True), 0, "a", mesh=make_mesh(), qk_norm_offset=0.0)
    names = ["k_norm.weight", "out", "out_bias", "q_norm.weight", "qkv", "qkv_bias"]
    assert [info.name for info in describe(attention)[1]] == names
