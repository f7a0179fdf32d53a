from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.pallas_kernels.paged_attention.api import paged_attention
from jaxllm.pallas_kernels.paged_attention.cases import CASES, make_arrays
from tests.pallas_kernels.helpers import check

MESH = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("model",))
TOLERANCE = {"float32": 2e-6, "bfloat16": 1e-2}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_float64_reference(name: str, dtype: str) -> None:
    case = CASES[name]
    arrays = make_arrays(case)
    arrays = arrays._replace(
        **{field: jnp.asarray(getattr(arrays, field), dtype) for field in ("qkv", "keys", "values")}
    )
    run = jax.jit(partial(paged_attention, spec=case.spec, mesh=MESH))
    out, keys, values = run(*jax.tree.map(jnp.asarray, arrays))
    assert np.isfinite(np.asarray(out, np.float64)).all()
    check(case, arrays, (out, keys, values), TOLERANCE[dtype])


def test_rejects_cache_of_other_heads() -> None:
    arrays = make_arrays(CASES["one_token"])
    other = arrays._replace(keys=arrays.keys[:, :, :1], values=arrays.values[:, :, :1])
    with pytest.raises(ValueError, match="do not hold the heads of projections"):
        paged_attention(*other, spec=CASES["one_token"].spec, mesh=MESH)


def test_rejects_one_norm_without_the_other() -> None:
    arrays = make_arrays(CASES["norm_and_rope"])
    other = arrays._replace(heads=arrays.heads._replace(k_norm=None))
    with pytest.raises(ValueError, match="expected both of q_norm and k_norm or neither"):
        paged_attention(*other, spec=CASES["norm_and_rope"].spec, mesh=MESH)
