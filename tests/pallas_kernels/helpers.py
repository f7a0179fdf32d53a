"""Comparing the backends of the ops with float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxllm.pallas_kernels.add_norm.cases import Case as AddNormCase
from jaxllm.pallas_kernels.paged_attention import reference
from jaxllm.pallas_kernels.paged_attention.cache_types import to_cache
from jaxllm.pallas_kernels.paged_attention.cases import Case, CaseArrays

SMALL_CACHE_TOLERANCE = 0.05
"""With pages of 8 bits: a number that is rounded twice may end on the other neighbour, 6 or 12 percent away."""


def check(
    case: Case, arrays: CaseArrays, results: Sequence[Any], tolerance: float, cache_dtype: Any = np.float64
) -> None:
    """Asserts that (attended, keys, values) are what the reference makes of the same rounded arguments."""
    out, keys, values = (np.asarray(result, np.float64) for result in results)
    rounded = {name: np.asarray(getattr(arrays, name), np.float64) for name in ("qkv", "keys", "values")}
    exact, exact_keys, exact_values = reference.paged_attention(
        *arrays._replace(**rounded), spec=case.spec, cache_dtype=cache_dtype
    )
    used = case.num_tokens - case.padding_tokens
    assert relative_error(out[:used], exact[:used]) < tolerance
    if case.has_norm or case.has_rope:
        old, slots = rounded["keys"], arrays.inputs.slot_mapping[:used]
        pages, offsets = np.divmod(slots, old.shape[1])
        assert relative_error(keys[pages, offsets], exact_keys[pages, offsets]) < tolerance
        keys[pages, offsets] = exact_keys[pages, offsets]
    np.testing.assert_array_equal(keys[1:], exact_keys[1:])
    np.testing.assert_array_equal(values[1:], exact_values[1:])


def with_small_cache(case: Case, arrays: CaseArrays, cache_dtype: str) -> CaseArrays:
    """The arrays with pages of 8 bits; without a rotary embedding, with keys and values too large for these."""
    qkv = arrays.qkv.copy()
    if not (case.has_norm or case.has_rope):
        qkv[:, :, -2:, 0] *= 1e6
    pools = {name: np.asarray(to_cache(getattr(arrays, name), cache_dtype)) for name in ("keys", "values")}
    return arrays._replace(qkv=qkv, **pools)


def relative_error(out: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(out - exact) / np.linalg.norm(exact))


def check_add_norm(case: AddNormCase, arrays: Sequence[Any], results: Sequence[Any], tolerance: float) -> None:
    """Asserts that (sum, norm) are those of the rounded arguments; every token is judged by itself."""
    total, normed = (np.asarray(result, np.float64) for result in results)
    x, delta, weight, *delta_weights = (np.asarray(array, np.float64) for array in arrays)
    if delta_weights:
        check_rows(total, x + exact_norm(case, delta, *delta_weights), tolerance)
    else:
        rounded = jnp.asarray(x.astype(np.float32) + delta.astype(np.float32), results[0].dtype)
        np.testing.assert_array_equal(total, np.asarray(rounded, np.float64))
    check_rows(normed, exact_norm(case, total, weight), tolerance)


def exact_norm(case: AddNormCase, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The root mean square norm of each token in float64."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + case.eps) * (weight + case.offset)


def check_rows(out: np.ndarray, exact: np.ndarray, tolerance: float) -> None:
    """Asserts that every row is near the exact one."""
    assert max(relative_error(*rows) for rows in zip(out, exact, strict=True)) < tolerance
