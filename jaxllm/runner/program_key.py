"""The key under which compiled programs are kept: what they are made of, and what they were made for."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax

_CODE = ("models", "pallas_kernels", "runner")
_VERSIONED = (
    "jaxlib",
    "triton",
    "jax-triton",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "nvidia-cublas-cu12",
    "nvidia-cublas",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "libtpu",
)
"""Packages whose code goes into programs, or whose functions programs call by number; most are there on GPUs only."""
_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable")
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def program_key(devices: list[jax.Device], *parts: object) -> str:
    """A key over `parts`, the sources that programs are traced from, and the machine."""
    return "\n".join(repr(part) for part in (*parts, _code_digest(), machine_key(devices)))


def machine_key(devices: list[jax.Device]) -> str:
    """A key over the devices and their driver, versions, and settings of JAX and XLA."""
    kinds = [(device.platform, device.device_kind, device.id) for device in devices]
    settings = [getattr(jax.config, name) for name in _SETTINGS]
    variables = [os.environ.get(name, "") for name in _VARIABLES]
    backend = devices[0].client.platform_version
    return repr((kinds, backend, _driver(), jax.__version__, _versions(), settings, variables, _machine()))


@cache
def _code_digest() -> str:
    """Digest of the sources that programs are traced from."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for folder in _CODE:
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _versions() -> tuple[str | None, ...]:
    found: list[str | None] = []
    for package in _VERSIONED:
        try:
            found.append(version(package))
        except PackageNotFoundError:
            found.append(None)
    return tuple(found)


@cache
def _driver() -> str:
    """What NVIDIA's driver says of itself; empty without one."""
    try:
        return _NVIDIA_DRIVER.read_text()
    except OSError:
        return ""


@cache
def _machine() -> str:
    """What CPU code is compiled for: the architecture and the processor's instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        flags = platform.processor()
    return f"{platform.machine()} {os.cpu_count()} {hashlib.sha256(flags.encode()).hexdigest()}"
