"""Layers against the formulas of their papers, in float64 NumPy."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models.config import Activation, RopeConfig
from jaxllm.models.layers import (
    Embedding,
    GatedMLP,
    LayerNorm,
    Linear,
    RMSNorm,
    activate,
    rope_frequencies,
    rope_tables,
    times_transposed,
)
from jaxllm.pallas_kernels.paged_attention.heads import apply_rope
from tests.models.helpers import fill, make_config

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 8)).astype(np.float32)
WEIGHT = RNG.standard_normal(8).astype(np.float32)
BIAS = RNG.standard_normal(8).astype(np.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm(offset: float) -> None:
    norm = fill(RMSNorm(8, 1e-3, "norm", offset=offset), weight=WEIGHT)
    expected = X / np.sqrt(np.mean(X.astype(np.float64) ** 2, axis=-1, keepdims=True) + 1e-3) * (WEIGHT + offset)
    np.testing.assert_allclose(norm(jnp.asarray(X)), expected, rtol=1e-5)


def test_rms_norm_of_heads() -> None:
    norm = fill(RMSNorm(4, 1e-3, "norm"), weight=WEIGHT[:4])
    heads = X.reshape(3, 2, 4)
    expected = heads / np.sqrt(np.mean(heads**2, axis=-1, keepdims=True) + 1e-3) * WEIGHT[:4]
    np.testing.assert_allclose(norm(jnp.asarray(heads)), expected, rtol=1e-5)


def test_norms_compute_in_float32_and_keep_the_dtype() -> None:
    x = jnp.asarray(X, jnp.bfloat16)
    norm = fill(RMSNorm(8, 0.0, "norm"), weight=np.ones(8, np.float32))
    exact = np.asarray(x, np.float64)
    exact /= np.sqrt(np.mean(exact**2, axis=-1, keepdims=True))
    assert norm(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(norm(x), np.float64), exact, rtol=2**-8)


def test_layer_norm() -> None:
    norm = fill(LayerNorm(8, 1e-3, "norm"), weight=WEIGHT, bias=BIAS)
    exact = X.astype(np.float64)
    centred = exact - exact.mean(axis=-1, keepdims=True)
    expected = centred / np.sqrt(exact.var(axis=-1, keepdims=True) + 1e-3) * WEIGHT + BIAS
    np.testing.assert_allclose(norm(jnp.asarray(X)), expected, rtol=1e-5, atol=1e-6)


def test_layer_norm_without_weights() -> None:
    norm = LayerNorm(8, 1e-3, "norm", affine=False)
    assert norm.weight is None
    expected = (X - X.mean(axis=-1, keepdims=True)) / np.sqrt(X.var(axis=-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(norm(jnp.asarray(X)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("silu", X * sigmoid(X)),
        ("relu", np.maximum(X, 0)),
        ("gelu", X * 0.5 * (1 + np.vectorize(math.erf)(X / math.sqrt(2)))),
        ("gelu_pytorch_tanh", X * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)))),
    ],
)
def test_activations(name: Activation, expected: np.ndarray) -> None:
    np.testing.assert_allclose(activate(name, jnp.asarray(X)), expected, rtol=1e-5, atol=1e-6)


def test_weights_of_three_axes_are_multiplied_as_one_matrix() -> None:
    weight = RNG.standard_normal((2, 3, 8)).astype(np.float32)
    product = times_transposed(jnp.asarray(X), jnp.asarray(weight))
    np.testing.assert_allclose(product, X @ weight.reshape(6, 8).T, rtol=1e-5, atol=1e-6)


def test_linear() -> None:
    weight = RNG.standard_normal((5, 8)).astype(np.float32)
    linear = fill(Linear(5, 8, "linear", axes=("ffn", None), bias=True), weight=weight, bias=BIAS[:5])
    np.testing.assert_allclose(linear(jnp.asarray(X)), X @ weight.T + BIAS[:5], rtol=1e-5, atol=1e-6)


def test_embedding_reads_rows_and_clips_what_is_no_token() -> None:
    embedding = fill(Embedding(3, 8, "embedding"), weight=X)
    np.testing.assert_array_equal(embedding(jnp.array([2, 0, 9], jnp.int32)), X[[2, 0, 2]])
    np.testing.assert_allclose(embedding.attend(jnp.asarray(X)), X @ X.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_shards", [1, 2])
def test_gated_mlp_is_the_same_however_it_is_split(num_shards: int) -> None:
    config = make_config(hidden_size=8, intermediate_size=6)
    mlp = GatedMLP(config, "mlp", num_shards=num_shards)
    gate, up = RNG.standard_normal((2, 6, 8)).astype(np.float32)
    down = RNG.standard_normal((8, 6)).astype(np.float32)
    fill(mlp, gate_up=mlp.gate_up.get_metadata()["assemble"]([gate, up]))
    fill(mlp.down, weight=down)
    gated = X @ gate.T
    expected = (gated * sigmoid(gated) * (X @ up.T)) @ down.T
    assert mlp.gate_up[...].shape == (num_shards, 2, 6 // num_shards, 8)
    np.testing.assert_allclose(mlp(jnp.asarray(X)), expected, rtol=1e-4, atol=1e-5)


def test_an_uneven_gated_mlp_stays_whole() -> None:
    mlp = GatedMLP(make_config(hidden_size=8, intermediate_size=7), "mlp", num_shards=2)
    assert mlp.gate_up.get_value().shape == (1, 2, 7, 8)


def test_frequencies_are_a_geometric_series() -> None:
    expected = [10000.0 ** (-pair / 4) for pair in range(4)]
    np.testing.assert_allclose(rope_frequencies(RopeConfig(), 8), expected, rtol=1e-6)


def test_linear_scaling_slows_all_frequencies() -> None:
    scaled = rope_frequencies(RopeConfig(scaling="linear", factor=8.0), 8)
    np.testing.assert_allclose(scaled * 8, rope_frequencies(RopeConfig(), 8), rtol=1e-6)


def llama3_frequency(frequency: float) -> float:
    """Llama 3.1's stretch of one frequency by 8, from a context of 8192."""
    wavelength = 2 * math.pi / frequency
    if wavelength < 8192 / 4:
        return frequency
    if wavelength > 8192 / 1:
        return frequency / 8
    smooth = (8192 / wavelength - 1) / (4 - 1)
    return (1 - smooth) * frequency / 8 + smooth * frequency


def test_llama3_scaling_slows_long_waves_only() -> None:
    config = RopeConfig(theta=500000.0, scaling="llama3", factor=8.0)
    plain = [500000.0 ** (-pair / 64) for pair in range(64)]
    expected = [llama3_frequency(frequency) for frequency in plain]
    assert sum(a != b for a, b in zip(plain, expected, strict=True)) == 35
    assert any(b < a < 8 * b * (1 - 1e-9) for a, b in zip(plain, expected, strict=True))
    np.testing.assert_allclose(rope_frequencies(config, 128), expected, rtol=1e-5)


def test_rope_turns_each_pair_by_its_angle() -> None:
    heads = X.reshape(3, 2, 4)
    positions = np.array([0, 1, 7], np.int32)
    turned = apply_rope(jnp.asarray(heads), *rope_tables(RopeConfig(), 4, jnp.asarray(positions)))
    turns = np.exp(1j * positions[:, None] * np.array([1.0, 0.01]))[:, None]
    pairs = (heads[..., :2] + 1j * heads[..., 2:]) * turns
    np.testing.assert_allclose(turned, np.concatenate([pairs.real, pairs.imag], axis=-1), rtol=1e-5, atol=1e-6)
