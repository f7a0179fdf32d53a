"""One row times a matrix, against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.pallas_kernels.matrix_vector import cpu
from jaxllm.pallas_kernels.matrix_vector.api import matrix_vector

SIZES = (1, 15, 16, 17, 341, 576, 1536, 1552, 3000)
"""Below a register, whole pieces, pieces and a rest, and rows that need wider pieces."""


def _operands(size: int, dtype: str) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(size)
    x, weight = rng.standard_normal((1, size)), rng.standard_normal((37, size)) / np.sqrt(size)
    return jnp.asarray(x, dtype), jnp.asarray(weight, dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("size", SIZES)
def test_equals_float64_up_to_one_rounding_of_the_result(size: int, dtype: str) -> None:
    x, weight = _operands(size, dtype)
    out = jax.jit(matrix_vector)(x, weight)
    expected = np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T
    assert out.dtype == x.dtype
    assert out.shape == (1, 37)
    epsilon = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=epsilon, atol=4e-6)


@pytest.mark.parametrize("size", [16, 1536, 4096, 14336])
def test_expressions_stay_short(size: int) -> None:
    assert size // cpu._lanes(size) <= cpu.MOST_PIECES


def test_lowers_to_one_plain_product_on_a_gpu() -> None:
    x, weight = _operands(64, "bfloat16")
    text = jax.jit(matrix_vector).trace(x, weight).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.dot_general") == 1
