from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.pallas_kernels.paged_attention import reference
from jaxllm.pallas_kernels.paged_attention.api import paged_attention
from jaxllm.pallas_kernels.paged_attention.cases import CASES, CaseArrays, make_arrays

MESH = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("model",))
TOLERANCE = {"float32": 2e-6, "bfloat16": 1e-2}


def cast(arrays: CaseArrays, dtype: str) -> CaseArrays:
    query, key, value, keys, values = (jnp.asarray(array, dtype) for array in arrays[:5])
    return CaseArrays(query, key, value, keys, values, arrays.inputs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_float64_reference(name: str, dtype: str) -> None:
    case = CASES[name]
    arrays = cast(make_arrays(case), dtype)
    inputs = jax.tree.map(jnp.asarray, arrays.inputs)
    run = jax.jit(partial(paged_attention, spec=case.spec, mesh=MESH))
    out, keys, values = run(*arrays[:5], inputs)
    doubles = arrays._replace(**{name: np.asarray(getattr(arrays, name), np.float64) for name in arrays._fields[:5]})
    exact, exact_keys, exact_values = reference.paged_attention(*doubles, spec=case.spec)
    used = case.num_tokens - case.padding_tokens
    error = np.linalg.norm(np.asarray(out, np.float64)[:used] - exact[:used]) / np.linalg.norm(exact[:used])
    assert error < TOLERANCE[dtype]
    assert np.isfinite(np.asarray(out, np.float64)).all()
    np.testing.assert_array_equal(np.asarray(keys, np.float64)[1:], exact_keys[1:])
    np.testing.assert_array_equal(np.asarray(values, np.float64)[1:], exact_values[1:])


def test_rejects_cache_of_other_heads() -> None:
    arrays = make_arrays(CASES["one_token"])
    with pytest.raises(ValueError, match="does not hold keys of shape"):
        paged_attention(
            *arrays[:3],
            arrays.keys[:, :, :1],
            arrays.values[:, :, :1],
            arrays.inputs,
            spec=CASES["one_token"].spec,
            mesh=MESH,
        )
