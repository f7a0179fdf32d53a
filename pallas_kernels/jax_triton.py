"""The one door to Triton kernels: jax-triton, with what differs between its releases and those of triton hidden here.

Nothing is imported before it is needed: jax-triton and triton are there on NVIDIA GPUs only.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import importlib.util
import inspect
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
    *arguments: jax.Array,
    updated: tuple[int, ...],
    out_type: Sequence[jax.ShapeDtypeStruct],
    grid: tuple[int, ...],
    num_warps: int,
    num_stages: int,
    constants: Mapping[str, Any],
) -> tuple[list[jax.Array], Sequence[jax.Array]]:
    """(the arguments at the indices `updated` as the kernel leaves them, its outputs).

    The kernel's parameters are the arguments, then the outputs, then the compile-time constants. The updated arguments
    are read and written in place if nothing else needs them. Whatever changes from step to step must be an array: every
    new value of a scalar compiles the kernel again.
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


def compute_capability() -> int:
    """The first GPU's, 90 for 9.0; whatever jax-triton compiles for."""
    load_jax_triton()
    from jax_triton import triton_lib

    return int(triton_lib.triton_kernel_call_lib.get_compute_capability(0))


@cache
def load_jax_triton() -> ModuleType:
    """The package, ready for use; raises DeviceError when it or triton is missing or too old."""
    missing = [name for name in ("triton", "jax_triton") if importlib.util.find_spec(name) is None]
    if missing:
        raise DeviceError(
            f"the GPU kernels need the packages triton and jax-triton; not installed: "
            f"{', '.join(name.replace('_', '-') for name in missing)}. Install them with: {INSTALL}"
        )
    import triton.backends.nvidia.driver as driver

    if not hasattr(driver, "TMA_TF32"):  # without it, jax-triton takes triton for one without the NVIDIA compiler
        driver.TMA_TF32 = _TMA_TF32
    import jax_triton

    if "out_type" not in inspect.signature(jax_triton.triton_call).parameters:
        version = getattr(jax_triton, "__version__", "an older one")
        raise DeviceError(f"the GPU kernels need jax-triton 0.4 or newer, got {version}. Update it with: {INSTALL}")
    return jax_triton
