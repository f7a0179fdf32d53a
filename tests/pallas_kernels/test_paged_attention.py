from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.pallas_kernels.paged_attention.api import paged_attention
from jaxllm.pallas_kernels.paged_attention.cases import CASES, make_arrays
from tests.pallas_kernels.helpers import SMALL_CACHE_TOLERANCE, check, with_small_cache

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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cache_dtype", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("name", ["mixed", "decode_window", "rope", "norm_and_rope_of_decodes", "one_prompt"])
def test_a_cache_of_8_bits_rounds_what_it_gets(name: str, cache_dtype: str, dtype: str) -> None:
    case = CASES[name]
    arrays = with_small_cache(case, make_arrays(case), cache_dtype)
    arrays = arrays._replace(qkv=np.asarray(jnp.asarray(arrays.qkv, dtype)))
    run = jax.jit(partial(paged_attention, spec=case.spec, mesh=MESH))
    results = run(*jax.tree.map(jnp.asarray, arrays))
    assert results[1].dtype == results[2].dtype == cache_dtype
    check(case, arrays, results, SMALL_CACHE_TOLERANCE, cache_dtype=cache_dtype)


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


def test_rejects_sinks_of_other_heads() -> None:
    arrays = make_arrays(CASES["sinks"])
    assert arrays.heads.sinks is not None
    other = arrays._replace(heads=arrays.heads._replace(sinks=arrays.heads.sinks[:, :1]))
    with pytest.raises(ValueError, match=r"expected a sink of each query head, \(2, 2\), got \(2, 1\)"):
        paged_attention(*other, spec=CASES["sinks"].spec, mesh=MESH)
