import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.pallas_kernels.paged_attention.cache_types import largest_value, to_cache


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float16"])
@pytest.mark.parametrize("given", ["float32", "bfloat16"])
def test_what_is_too_large_becomes_the_largest(dtype: str, given: str) -> None:
    largest = float(jnp.finfo(dtype).max)
    kept = np.asarray(to_cache(jnp.asarray([1e6, -1e6, jnp.inf, 1.5, jnp.nan], given), dtype), np.float32)
    assert kept[:4].tolist() == [largest, -largest, largest, 1.5]
    assert np.isnan(kept[4])


def test_types_that_hold_what_comes_have_no_limit() -> None:
    assert largest_value("float16", "float16") == largest_value("bfloat16", "float32") == 0.0
