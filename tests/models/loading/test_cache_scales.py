"""Scales of keys and values go into the projections, exactly."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import pytest

from jaxllm.errors import CheckpointError
from jaxllm.models.loading.cache_scales import ScaledCheckpoint

LAYER = "model.layers.3.self_attn"
WEIGHTS = {
    f"{LAYER}.{name}": np.arange(1, 5, dtype=np.float32)
    for name in ("q_proj.weight", "k_proj.weight", "k_proj.bias", "v_proj.weight", "o_proj.weight", "o_proj.bias")
}


class Tensors:
    """A checkpoint in memory."""

    location = "somewhere"

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        self.tensors = tensors

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def read(self, name: str) -> np.ndarray:
        return self.tensors[name]


def scaled(tensors: Mapping[str, np.ndarray], *, is_applied: bool = True, **options: float) -> ScaledCheckpoint:
    return ScaledCheckpoint(Tensors(tensors), is_applied=is_applied, **options)


def factors(checkpoint: ScaledCheckpoint, tensors: Mapping[str, np.ndarray]) -> dict[str, float]:
    """By how much each tensor of the layer was multiplied."""
    return {name.removeprefix(f"{LAYER}."): checkpoint.read(name)[0] / tensors[name][0] for name in checkpoint.names()}


def test_keys_shrink_and_queries_grow_by_the_next_power_of_two() -> None:
    checkpoint = scaled(WEIGHTS | {f"{LAYER}.k_scale": np.float32(0.03), f"{LAYER}.v_scale": np.array([2.0])})
    assert factors(checkpoint, WEIGHTS) == {
        "q_proj.weight": 1 / 32,
        "k_proj.weight": 32,
        "k_proj.bias": 32,
        "v_proj.weight": 1 / 2,
        "o_proj.weight": 2,
        "o_proj.bias": 1,
    }


@pytest.mark.parametrize(
    "names",
    [
        ("k_scale", "v_scale"),
        ("attn.k_scale", "attn.v_scale"),
        ("k_proj.k_scale", "v_proj.v_scale"),
        ("qkv_proj.k_scale", "qkv_proj.v_scale"),
        ("k_proj.output_scale", "v_proj.output_scale"),
        ("kv_scale",),
    ],
)
def test_all_spellings_are_known(names: tuple[str, ...]) -> None:
    found = factors(scaled(WEIGHTS | {f"{LAYER}.{name}": np.float32(4.0) for name in names}), WEIGHTS)
    assert (found["k_proj.weight"], found["v_proj.weight"]) == (1 / 4, 1 / 4)


def test_scales_for_arithmetic_in_8_bits_are_left_out() -> None:
    others = {f"{LAYER}.{name}": np.float32(4.0) for name in ("q_scale", "prob_scale", "attn.q_scale")}
    checkpoint = scaled(WEIGHTS | others)
    assert checkpoint.names() == list(WEIGHTS)
    assert set(factors(checkpoint, WEIGHTS).values()) == {1.0}


def test_other_caches_take_no_scales() -> None:
    checkpoint = scaled(WEIGHTS | {f"{LAYER}.k_scale": np.float32(4.0)}, is_applied=False)
    assert checkpoint.names() == list(WEIGHTS)
    assert set(factors(checkpoint, WEIGHTS).values()) == {1.0}


def test_scaling_is_exact_in_few_bits() -> None:
    values = np.random.default_rng(0).standard_normal(64).astype(ml_dtypes.bfloat16)
    tensors = {f"{LAYER}.v_proj.weight": values, f"{LAYER}.v_scale": np.float32(0.01)}
    result = scaled(tensors).read(f"{LAYER}.v_proj.weight")
    assert result.dtype == values.dtype
    np.testing.assert_array_equal(result.astype(np.float64), values.astype(np.float64) * 64)


def test_norms_of_keys_and_queries_take_the_scale_themselves() -> None:
    norms = {f"{LAYER}.{name}_norm.weight": np.array([0.5, 1.0], np.float32) for name in "qk"}
    tensors = WEIGHTS | norms | {f"{LAYER}.k_scale": np.float32(0.5)}
    plain, offset = scaled(tensors), scaled(tensors, norm_offset=1.0)
    assert plain.read(f"{LAYER}.k_norm.weight").tolist() == [1.0, 2.0]
    assert plain.read(f"{LAYER}.q_norm.weight").tolist() == [0.25, 0.5]
    assert offset.read(f"{LAYER}.k_norm.weight").tolist() == [2.0, 3.0]  # 1 + 0.5 becomes 1 + 2
    assert offset.read(f"{LAYER}.q_norm.weight").tolist() == [-0.25, 0.0]
    assert plain.read(f"{LAYER}.k_proj.weight") is WEIGHTS[f"{LAYER}.k_proj.weight"]


@pytest.mark.parametrize(
    ("scale", "found"),
    [(np.array([1.0, 2.0]), "2 numbers"), (np.float32(0), "0.0"), (np.float32(np.nan), "nan")],
)
def test_refuses_what_is_no_scale(scale: np.ndarray, found: str) -> None:
    with pytest.raises(CheckpointError, match=rf"k_scale must be one positive number, got {found}"):
        scaled(WEIGHTS | {f"{LAYER}.k_scale": scale})
