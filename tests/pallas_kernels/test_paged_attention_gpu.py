"""The Triton kernels on a GPU against the float64 reference."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.pallas_kernels.paged_attention.api import AttentionSpec, paged_attention
from jaxllm.pallas_kernels.paged_attention.cases import CASES, Case, make_arrays
from tests.pallas_kernels.helpers import SMALL_CACHE_TOLERANCE, check, with_small_cache

pytestmark = pytest.mark.gpu

TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}

GPU_CASES = {
    **CASES,
    "splits_of_a_long_context": Case(decodes=(5000, 3, 64, 65), kv_heads=2, group=4, head_dim=128),
    "pages_smaller_than_a_block": Case(decodes=(70, 9), chunks=((5, 140),), page_size=4),
    "pages_of_one_token": Case(decodes=(40,), chunks=((5, 30),), page_size=1),
    "odd_head_dim": Case(decodes=(40,), chunks=((5, 30),), group=5, head_dim=20),
    "head_dim_96": Case(decodes=(300,), chunks=((100, 200),), head_dim=96, page_size=32),
    "group_larger_than_a_block": Case(decodes=(200, 31), chunks=((5, 30),), kv_heads=1, group=20),
    "window_of_one_and_soft_cap": Case(
        decodes=(5, 40), chunks=((60, 90),), spec=AttentionSpec(scale=0.5, window=1, soft_cap=3.0)
    ),
    "window_and_soft_cap_in_wide_heads": Case(
        decodes=(5, 400),
        chunks=((160, 190),),
        head_dim=256,
        spec=AttentionSpec(scale=0.1, window=100, soft_cap=20.0),
    ),
    "many_short_decodes": Case(decodes=tuple(range(1, 300, 5)), kv_heads=8, group=4, head_dim=128, has_rope=True),
    "one_long_among_short": Case(decodes=(9000, *range(1, 90, 9)), kv_heads=2, group=8, head_dim=64, has_rope=True),
    "window_of_many_lengths": Case(
        decodes=(1, 2, 99, 100, 101, 102, 5000),
        head_dim=128,
        has_norm=True,
        has_rope=True,
        spec=AttentionSpec(scale=0.1, window=100),
    ),
    "long_chunks": Case(chunks=((700, 500), (0, 257)), group=4, head_dim=128, has_rope=True),
    "chunks_in_large_pages": Case(chunks=((130, 300), (0, 1), (64, 64)), group=4, head_dim=128, page_size=128),
    "chunks_in_pages_of_64": Case(chunks=((100, 270), (0, 64)), kv_heads=1, group=8, page_size=64),
    "chunks_of_many_heads": Case(chunks=((0, 130), (500, 128)), kv_heads=1, group=16, head_dim=128, page_size=32),
    "chunks_of_an_odd_group": Case(chunks=((0, 130), (500, 128)), group=5, head_dim=128),
    "chunk_window_of_blocks": Case(
        chunks=((0, 700), (900, 300)), group=4, head_dim=128, spec=AttentionSpec(scale=0.1, window=256)
    ),
    "chunk_window_and_cap": Case(
        chunks=((0, 400), (333, 200)), head_dim=128, spec=AttentionSpec(scale=0.3, window=50, soft_cap=4.0)
    ),
    "sinks_of_splits": Case(decodes=(5000, 3, 64, 65), kv_heads=2, group=8, has_sinks=True),
    "sinks_as_gpt_oss": Case(
        decodes=(200, 31),
        chunks=((0, 300), (500, 128)),
        kv_heads=8,
        group=8,
        has_rope=True,
        has_sinks=True,
        spec=AttentionSpec(scale=0.125, window=128),
    ),
    "sinks_of_an_odd_group": Case(decodes=(70,), chunks=((5, 200),), group=5, head_dim=128, has_sinks=True),
    "many_chunks": Case(chunks=tuple((16 * i, 40 + i) for i in range(40)), group=4, head_dim=128),
    "serving": Case(
        decodes=(1000, 17, 333),
        chunks=((0, 128), (256, 256), (1, 1)),
        kv_heads=8,
        group=4,
        head_dim=128,
        padding_tokens=7,
    ),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", GPU_CASES)
def test_agrees_with_float64_reference(name: str, dtype: str) -> None:
    case = GPU_CASES[name]
    arrays = make_arrays(case, seed=len(name))
    arrays = arrays._replace(
        **{field: jnp.asarray(getattr(arrays, field), dtype) for field in ("qkv", "keys", "values")}
    )
    mesh = jax.sharding.Mesh(np.array(jax.devices("gpu")[:1]), ("model",))
    attend = jax.jit(partial(paged_attention, spec=case.spec, mesh=mesh))
    out, keys, values = attend(*jax.tree.map(jnp.asarray, arrays))
    assert np.isfinite(np.asarray(out[: case.num_tokens - case.padding_tokens], np.float64)).all()
    check(case, arrays, (out, keys, values), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cache_dtype", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("name", ["serving", "rope_of_decodes", "norm_and_rope", "many_short_decodes", "odd_head_dim"])
def test_a_cache_of_8_bits_rounds_what_it_gets(name: str, cache_dtype: str, dtype: str) -> None:
    case = GPU_CASES[name]
    arrays = with_small_cache(case, make_arrays(case), cache_dtype)
    arrays = arrays._replace(qkv=np.asarray(jnp.asarray(arrays.qkv, dtype)))
    mesh = jax.sharding.Mesh(np.array(jax.devices("gpu")[:1]), ("model",))
    attend = jax.jit(partial(paged_attention, spec=case.spec, mesh=mesh))
    results = attend(*jax.tree.map(jnp.asarray, arrays))
    check(case, arrays, results, SMALL_CACHE_TOLERANCE, cache_dtype=cache_dtype)


@pytest.mark.parametrize("page_size", [16, 64])
def test_what_others_left_in_a_page_is_not_read(page_size: int) -> None:
    case = Case(decodes=(41,), chunks=((0, 37), (100, 29), (64, 128)), head_dim=128, page_size=page_size)
    arrays = make_arrays(case)
    own = np.zeros(arrays.keys.shape[:2], bool)
    for table, length in zip(arrays.inputs.page_tables, arrays.inputs.context_lens, strict=True):
        places = np.arange(length)
        own[table[places // page_size], places % page_size] = True
    pools = (np.where(own[:, :, None, None], pool, np.nan) for pool in (arrays.keys, arrays.values))
    qkv, keys, values = (jnp.asarray(array, jnp.bfloat16) for array in (arrays.qkv, *pools))
    mesh = jax.sharding.Mesh(np.array(jax.devices("gpu")[:1]), ("model",))
    attend = jax.jit(partial(paged_attention, spec=case.spec, mesh=mesh))
    out, _, _ = attend(qkv, arrays.heads, keys, values, jax.tree.map(jnp.asarray, arrays.inputs))
    assert np.isfinite(np.asarray(out, np.float32)).all()


def test_a_program_runs_on_zeros_and_touches_page_zero_alone() -> None:
    arrays = make_arrays(Case(decodes=(5, 40), has_rope=True))
    zeros = jax.tree.map(jnp.zeros_like, jax.tree.map(jnp.asarray, arrays.inputs))
    arrays = arrays._replace(inputs=zeros)
    mesh = jax.sharding.Mesh(np.array(jax.devices("gpu")[:1]), ("model",))
    attend = jax.jit(partial(paged_attention, spec=AttentionSpec(scale=0.1), mesh=mesh))
    out, keys, values = attend(*jax.tree.map(jnp.asarray, arrays))
    assert np.isfinite(np.asarray(out)).all()
    np.testing.assert_array_equal(np.asarray(keys).reshape(-1, 2, 64)[1:], arrays.keys.reshape(-1, 2, 64)[1:])
    np.testing.assert_array_equal(np.asarray(values).reshape(-1, 2, 64)[1:], arrays.values.reshape(-1, 2, 64)[1:])
