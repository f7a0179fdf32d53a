"""The one door to Triton kernels: jax-triton, with what differs between its releases and those of triton hidden here.

Nothing is imported before it is needed: jax-triton and triton are there on NVIDIA GPUs only.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import importlib.util
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import jax

from jaxllm.errors import DeviceError

INSTALL = "pip install 'jaxllm[cuda]'"
"""What brings the packages."""

MIN_COMPUTE_CAPABILITY = (8, 0)
"""Oldest GPUs with bfloat16 matrix units: Ampere."""

_TMA_TF32 = 11
"""The driver's number for the data type tf32 of tensor copies, unknown to triton before 3.7."""


def require_triton() -> None:
    """Raises DeviceError, with what to do, when Triton kernels can't run on the first GPU."""
    load_jax_triton()
    device = jax.devices("gpu")[0]
    capability = str(getattr(device, "compute_capability", ""))
    major, _, minor = capability.partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise DeviceError(
            f"the GPU kernels run on NVIDIA GPUs, and {device.device_kind!r} reports compute capability {capability!r}"
        )
    if (int(major), int(minor)) < MIN_COMPUTE_CAPABILITY:
        raise DeviceError(
            f"the GPU kernels need compute capability {'.'.join(map(str, MIN_COMPUTE_CAPABILITY))} (Ampere) or newer, "
            f"and {device.device_kind!r} has {capability}"
        )


def triton_update(
    kernel: Any,
    *arguments: Any,
    updated: tuple[int, ...],
    out_type: Sequence[jax.ShapeDtypeStruct],
    grid: tuple[int, ...],
    num_warps: int,
    num_stages: int,
    constants: Mapping[str, Any],
) -> tuple[list[jax.Array], Sequence[jax.Array]]:
    """(the arguments at the indices `updated` as the kernel leaves them, its outputs).

    Arguments are arrays or `boxes`. The kernel's parameters are the arguments, then the outputs, then the compile-time
    constants. The updated arguments are read and written in place if nothing else needs them. Whatever changes from
    step to step must be an array: every new value of a scalar compiles the kernel again.
    """
    references = {index: jax.new_ref(arguments[index]) for index in updated}
    outputs = load_jax_triton().triton_call(
        *(references.get(index, argument) for index, argument in enumerate(arguments)),
        kernel=kernel,
        out_type=tuple(out_type),
        grid=grid,
        num_warps=num_warps,
        num_stages=num_stages,
        **constants,
    )
    return [jax.freeze(reference) for reference in references.values()], outputs


def boxes(array: jax.Array, box: tuple[int, int]) -> Any:
    """A matrix of 16 bits an entry as a kernel's argument that the tensor memory accelerator copies from box by box.

    A row of a box is 64 entries, which is 128 bytes, and comes into shared memory swizzled over that width.
    """
    package = load_jax_triton()
    from triton.experimental.gluon.language import NVMMASharedLayout

    layout = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    return package.TensorDescriptor.from_array(array, box, layout)


def compute_capability() -> int:
    """The first GPU's, 90 for 9.0; whatever jax-triton compiles for."""
    load_jax_triton()
    from jax_triton import triton_lib

    return int(triton_lib.triton_kernel_call_lib.get_compute_capability(0))


def num_cores() -> int:
    """Streaming multiprocessors of the first GPU."""
    return int(jax.devices("gpu")[0].core_count)


@cache
def load_jax_triton() -> ModuleType:
    """The package, ready for use; raises DeviceError when it or triton is missing or too old."""
    missing = [name for name in ("triton", "jax_triton") if importlib.util.find_spec(name) is None]
    if missing:
        raise DeviceError(
            f"the GPU kernels need the packages triton and jax-triton; not installed: "
            f"{', '.join(name.replace('_', '-') for name in missing)}. Install them with: {INSTALL}"
        )
    # triton 3.9 asks for a choice and warns without one. Products and sums are fused, as releases before it did.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    import triton.backends.nvidia.driver as driver

    if not hasattr(driver, "TMA_TF32"):  # without it, jax-triton takes triton for one without the NVIDIA compiler
        driver.TMA_TF32 = _TMA_TF32
    import jax_triton

    if "out_type" not in inspect.signature(jax_triton.triton_call).parameters:
        version = getattr(jax_triton, "__version__", "an older one")
        raise DeviceError(f"the GPU kernels need jax-triton 0.4 or newer, got {version}. Update it with: {INSTALL}")
    _keep_calls(jax_triton)
    _accept_any_descriptor(jax_triton)
    _compile_gluon_as_written(jax_triton)
    _launch_all_warps(jax_triton)
    return jax_triton


def _keep_calls(jax_triton: ModuleType) -> None:
    """Kernels update arrays in place, so no call is dead; jax-triton 0.4 says so as jax before 0.12 asked."""
    from jax.interpreters import partial_eval

    def keep(used_outputs: Sequence[bool], *arguments: Any) -> tuple[list[bool], Any]:
        equation = arguments[-1]
        return [True] * len(equation.invars), equation

    partial_eval.dce_rules[jax_triton.triton_lib.triton_kernel_call_p] = keep


def _accept_any_descriptor(jax_triton: ModuleType) -> None:
    """triton before 3.7 does not say whether a descriptor is of the kind im2col; it knew no such kind."""
    meta = jax_triton.triton_lib.TensorDescMeta
    meta.__required_keys__ = meta.__required_keys__ - {"is_im2col"}


class _GluonBackend:
    """A compiler of Gluon for one that knows Triton's stages alone."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def make_ttir(self, module: Any, metadata: dict[str, Any], options: Any, capability: int) -> Any:
        return module

    def make_ttgir(self, module: Any, metadata: dict[str, Any], options: Any, capability: int) -> Any:
        return self._backend.gluon_to_ttgir(module, metadata, options, capability)


def _compile_gluon_as_written(jax_triton: ModuleType) -> None:
    """jax-triton 0.4 sends Gluon through Triton's optimisations, which make matrix products wait where they need not.

    Only a module of Gluon knows its number of warps before it is compiled.
    """
    library = jax_triton.triton_lib
    compile_module = library.compile_ttir_to_ptx_inplace

    def compile_either(module: Any, backend: Any, options: Any, capability: int) -> Any:
        is_gluon = module.get_int_attr("ttg.num-warps") is not None
        return compile_module(module, _GluonBackend(backend) if is_gluon else backend, options, capability)

    library.compile_ttir_to_ptx_inplace = compile_either


def _launch_all_warps(jax_triton: ModuleType) -> None:
    """jax-triton 0.4 launches as many warps as the kernel begins with, and leaves out those that it hands work to.

    The compiled text says how many threads the kernel must be launched with.
    """
    library = jax_triton.triton_lib.triton_kernel_call_lib
    make_kernel = library.TritonKernel

    def kernel(name: str, num_warps: int, num_ctas: int, shared_bytes: int, text: Any, *rest: Any) -> Any:
        threads = re.search(r"\.reqntid (\d+)", text) if isinstance(text, str) else None
        warps = int(threads[1]) // 32 if threads else num_warps
        return make_kernel(name, warps, num_ctas, shared_bytes, text, *rest)

    library.TritonKernel = kernel
