import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.pallas_kernels.add_norm.api import add_rms_norm
from jaxllm.pallas_kernels.add_norm.cases import CASES, make_arrays
from tests.pallas_kernels.helpers import check_add_norm

MESH = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("model",))
TOLERANCE = {"float32": 1e-6, "bfloat16": 4e-3}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_float64(name: str, dtype: str) -> None:
    case = CASES[name]
    arrays = tuple(jnp.asarray(array, dtype) for array in make_arrays(case))
    results = add_rms_norm(*arrays, eps=case.eps, offset=case.offset, mesh=MESH)
    check_add_norm(case, arrays, results, TOLERANCE[dtype])


@pytest.mark.parametrize("cut", [1, 2, 3], ids=["delta", "weight", "weight of delta"])
def test_rejects_arrays_that_do_not_match(cut: int) -> None:
    arrays = [*make_arrays(CASES["norm_of_delta"])]
    arrays[cut] = arrays[cut][..., :-1]
    with pytest.raises(ValueError, match="expected two arrays of one shape and dtype and weights of their last axis"):
        add_rms_norm(*arrays, eps=1e-5, offset=0.0, mesh=MESH)
