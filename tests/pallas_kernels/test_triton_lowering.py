"""The Triton kernels compile for each generation of GPUs, on a machine without one."""

import importlib.util
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxllm.pallas_kernels import jax_triton
from jaxllm.pallas_kernels.paged_attention.api import AttentionSpec
from jaxllm.pallas_kernels.paged_attention.cases import Case, make_arrays

PACKAGES = ("triton", "jax_triton", "jax_cuda13_plugin")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
SHARED_MEMORY = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}
"""Most that one block of threads gets, by compute capability."""
SMALL_CACHES = [(80, "float8_e5m2"), (89, "float8_e4m3fn"), (90, "float8_e4m3fn")]
"""Types of 8 bits that a cache may have, by compute capability: `require_cache_dtype` refuses float8_e4m3fn on 80."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

_WIDE = AttentionSpec(scale=0.1, window=9)
_CAPPED = AttentionSpec(scale=0.1, soft_cap=9.0)
LOWERED_CASES = {
    "serving": Case(decodes=(50,), chunks=((0, 50),), kv_heads=8, group=4, head_dim=128, has_rope=True),
    "serving_decodes": Case(decodes=(50,), kv_heads=8, group=4, head_dim=128, has_rope=True),
    "wide_heads": Case(chunks=((0, 50),), head_dim=256, has_norm=True, has_rope=True, spec=_WIDE),
    "wide_heads_decodes": Case(decodes=(50,), head_dim=256, has_norm=True, has_rope=True, spec=_WIDE),
    "small_heads_in_large_pages": Case(chunks=((0, 50), (3, 9)), head_dim=64, page_size=128, spec=_WIDE),
    "sinks": Case(decodes=(50,), chunks=((0, 50),), group=4, head_dim=128, has_sinks=True),
    "sinks_decodes": Case(decodes=(50,), group=4, head_dim=128, has_sinks=True),
    "odd_heads": Case(decodes=(50,), chunks=((0, 50),), head_dim=80, spec=_CAPPED),
    "odd_heads_decodes": Case(decodes=(50,), head_dim=80, spec=_CAPPED),
}
ONE_KERNEL = {"decode_step_kernel"}
THREE_KERNELS = {"prepare_kernel", "chunk_kernel", "decode_kernel"}
ON_HOPPER = {"prepare_kernel", "chunk_hopper_kernel", "decode_kernel"}
"""Of heads of 64 or 128 in 16 bits."""


def record_shared_memory(monkeypatch: pytest.MonkeyPatch, capability: int) -> dict[str, int]:
    """Bytes of the kernels that are compiled from now on, by name, for GPUs of this capability."""
    jax_triton.load_jax_triton()
    from jax_triton import triton_lib
    from triton.backends.nvidia.compiler import CUDABackend

    from jaxllm.pallas_kernels.page_swap import triton_kernels as page_swap_kernels
    from jaxllm.pallas_kernels.paged_attention import (
        hopper,
        hopper_kernels,
        triton_chunk_kernels,
        triton_decode_kernels,
    )

    shared: dict[str, int] = {}
    make_ptx = CUDABackend.make_ptx

    def record(self: Any, source: Any, metadata: dict[str, Any], *rest: Any) -> Any:
        text = make_ptx(self, source, metadata, *rest)
        shared[metadata["name"]] = metadata["shared"]
        return text

    monkeypatch.setattr(CUDABackend, "make_ptx", record)
    monkeypatch.setattr(triton_lib.triton_kernel_call_lib, "get_compute_capability", lambda device: capability)
    monkeypatch.setattr(hopper, "num_cores", lambda: 132)
    for module in (hopper_kernels, triton_chunk_kernels, triton_decode_kernels, page_swap_kernels):
        for kernel in vars(module).keys() & (ONE_KERNEL | THREE_KERNELS | ON_HOPPER | {"move_kernel"}):
            vars(module)[kernel].__dict__.pop("_jT_kernel_cache", None)
    return shared


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize("name", LOWERED_CASES)
def test_lowers_in_place_within_shared_memory(
    name: str, capability: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = record_shared_memory(monkeypatch, capability)
    from jaxllm.pallas_kernels.paged_attention.triton import paged_attention

    case = LOWERED_CASES[name]
    arrays = make_arrays(case)
    arrays = arrays._replace(
        **{field: jnp.asarray(getattr(arrays, field), dtype) for field in ("qkv", "keys", "values")}
    )
    step = jax.jit(partial(paged_attention, spec=case.spec), donate_argnums=(2, 3))
    text = step.trace(*jax.tree.map(jnp.asarray, arrays)).lower(lowering_platforms=("cuda",)).as_text()
    has_hopper_heads = capability == 90 and dtype != "float32" and case.head_dim in (64, 128)
    expected = (ON_HOPPER if has_hopper_heads else THREE_KERNELS) if case.chunks else ONE_KERNEL
    assert text.count("@triton_kernel_call_ffi") == len(expected)
    # Both caches, and the queries of chunks and of decode rows beside them.
    assert text.count("#stablehlo.output_operand_alias") == (4 if case.chunks else 2)
    assert set(shared) == expected
    assert max(shared.values()) <= SHARED_MEMORY[capability]


@pytest.mark.parametrize(("capability", "cache_dtype"), SMALL_CACHES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", ["serving", "serving_decodes", "wide_heads", "wide_heads_decodes"])
def test_a_cache_of_8_bits_lowers(
    name: str, dtype: str, capability: int, cache_dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = record_shared_memory(monkeypatch, capability)
    from jaxllm.pallas_kernels.paged_attention.triton import paged_attention

    case = LOWERED_CASES[name]
    arrays = make_arrays(case)
    pools = {field: jnp.asarray(getattr(arrays, field) / 1000, cache_dtype) for field in ("keys", "values")}
    arrays = arrays._replace(qkv=jnp.asarray(arrays.qkv, dtype), **pools)
    step = jax.jit(partial(paged_attention, spec=case.spec), donate_argnums=(2, 3))
    text = step.trace(*jax.tree.map(jnp.asarray, arrays)).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@triton_kernel_call_ffi") == len(shared) == (3 if case.chunks else 1)
    assert max(shared.values()) <= SHARED_MEMORY[capability]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("capability", SHARED_MEMORY)
def test_add_and_norm_lowers(capability: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    jax_triton.load_jax_triton()
    from jax_triton import triton_lib

    from jaxllm.pallas_kernels.add_norm.triton import add_rms_norm

    monkeypatch.setattr(triton_lib.triton_kernel_call_lib, "get_compute_capability", lambda device: capability)
    x = jax.ShapeDtypeStruct((3, 80), dtype)
    weight = jax.ShapeDtypeStruct((80,), dtype)
    step = jax.jit(partial(add_rms_norm, eps=1e-5, offset=1.0))
    for weights in ((weight,), (weight, weight)):
        text = step.trace(x, x, *weights).lower(lowering_platforms=("cuda",)).as_text()
        assert text.count("@triton_kernel_call_ffi") == 1


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [*((capability, dtype) for capability in SHARED_MEMORY for dtype in ("float32", "bfloat16")), *SMALL_CACHES],
)
@pytest.mark.parametrize("to_host", [True, False])
def test_moving_pages_lowers_in_place(
    to_host: bool, capability: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = record_shared_memory(monkeypatch, capability)
    from jaxllm.pallas_kernels.page_swap.triton import move_pages

    pool, moves, place = jnp.zeros((9, 16, 2, 64), dtype), jnp.zeros((4, 3), jnp.int32), jnp.zeros((1,), jnp.int32)
    move = jax.jit(partial(move_pages, to_host=to_host), donate_argnums=0)
    text = move.trace(pool, moves, place).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@triton_kernel_call_ffi") == text.count("#stablehlo.output_operand_alias") == 1
    assert set(shared) == {"move_kernel"}
    assert shared["move_kernel"] <= SHARED_MEMORY[capability]
