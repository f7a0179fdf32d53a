"""The Triton kernel of add and norm on a GPU against float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.pallas_kernels.add_norm.api import add_rms_norm
from jaxllm.pallas_kernels.add_norm.cases import CASES, make_arrays
from tests.pallas_kernels.helpers import check_add_norm

pytestmark = pytest.mark.gpu

TOLERANCE = {"float32": 1e-6, "bfloat16": 4e-3, "float16": 5e-4}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_float64(name: str, dtype: str) -> None:
    case = CASES[name]
    arrays = tuple(jnp.asarray(array, dtype) for array in make_arrays(case, seed=len(name)))
    mesh = jax.sharding.Mesh(np.array(jax.devices("gpu")[:1]), ("model",))
    results = jax.jit(partial(add_rms_norm, eps=case.eps, offset=case.offset, mesh=mesh))(*arrays)
    check_add_norm(case, arrays, results, TOLERANCE[dtype])
