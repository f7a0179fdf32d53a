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

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

LOWERED_CASES = {
    "serving": Case(decodes=(50,), chunks=((0, 50),), kv_heads=8, group=4, head_dim=128),
    "wide_heads": Case(decodes=(50,), chunks=((0, 50),), head_dim=256, spec=AttentionSpec(scale=0.1, window=9)),
    "odd_heads": Case(decodes=(50,), chunks=((0, 50),), head_dim=80, spec=AttentionSpec(scale=0.1, soft_cap=9.0)),
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize("name", LOWERED_CASES)
def test_lowers_in_place_within_shared_memory(
    name: str, capability: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jax_triton.load_jax_triton()
    from jax_triton import triton_lib
    from triton.backends.nvidia.compiler import CUDABackend

    from jaxllm.pallas_kernels.paged_attention import triton_kernels
    from jaxllm.pallas_kernels.paged_attention.triton import paged_attention

    shared = {}
    make_ptx = CUDABackend.make_ptx

    def record(self: Any, source: Any, metadata: dict[str, Any], *rest: Any) -> Any:
        text = make_ptx(self, source, metadata, *rest)
        shared[metadata["name"]] = metadata["shared"]
        return text

    monkeypatch.setattr(CUDABackend, "make_ptx", record)
    monkeypatch.setattr(triton_lib.triton_kernel_call_lib, "get_compute_capability", lambda device: capability)
    for kernel in (triton_kernels.chunk_kernel, triton_kernels.combine_kernel, triton_kernels.decode_kernel):
        kernel.__dict__.pop("_jT_kernel_cache", None)
    case = LOWERED_CASES[name]
    arrays = make_arrays(case)
    tensors = [jnp.asarray(array, dtype) for array in arrays[:5]]
    step = jax.jit(partial(paged_attention, spec=case.spec), donate_argnums=(0, 3, 4))
    inputs = jax.tree.map(jnp.asarray, arrays.inputs)
    text = step.trace(*tensors, inputs).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@triton_kernel_call_ffi") == 3
    assert text.count("#stablehlo.output_operand_alias") == 2, "chunks and combination write in place"
    assert set(shared) == {"chunk_kernel", "decode_kernel", "combine_kernel"}
    assert max(shared.values()) <= SHARED_MEMORY[capability]
