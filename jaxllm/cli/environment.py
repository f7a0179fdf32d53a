"""What of a machine matters when something goes wrong: versions, devices, processor, cache, variables."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxllm import __version__

PACKAGES = (
    "jax",
    "jaxlib",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "libtpu",
    "jax-triton",
    "triton",
    "flax",
    "orbax-checkpoint",
    "numpy",
    "ml_dtypes",
    "transformers",
    "tokenizers",
    "safetensors",
    "gguf",
    "huggingface_hub",
    "modelscope",
    "fastapi",
    "pydantic",
    "uvicorn",
    "uvloop",
    "aiohttp",
    "openai",
    "typer",
    "torch",
    "vllm",
)
CPU_FLAGS = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "bf16", "i8mm", "sve")
VARIABLES = (
    "JAXLLM",
    "VLLM",
    "JAX",
    "XLA",
    "TF",
    "HF",
    "TRANSFORMERS",
    "TOKENIZERS",
    "OPENAI",
    "CUDA",
    "NVIDIA",
    "TPU",
)
"""First words of the environment variables that change what jaxllm does."""
OTHER_VARIABLES = ("LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PYTHONPATH")
SECRET_WORDS = frozenset({"KEY", "KEYS", "TOKEN", "TOKENS", "SECRET", "PASSWORD", "CREDENTIALS"})
_USER_INFO = re.compile(r"(?<=//)[^/@\s]+(?=@)")


def collect_environment() -> dict[str, Any]:
    """Everything, by section; a part that can't be read says why instead."""
    variables = read_variables(os.environ)  # before jax adds its own
    return {
        "system": read_system(),
        "packages": {"jaxllm": __version__, **read_packages(PACKAGES)},
        "devices": read_devices(),
        "cache": read_cache(),
        "variables": variables,
    }


def read_system() -> dict[str, Any]:
    """Operating system, Python, processor, memory and graphics driver."""
    flags = _cpu_line("flags", "Features").split()
    return {
        "os": _os_name(),
        "kernel": platform.platform(),
        "python": f"{platform.python_version()} ({sys.executable})",
        "cpu": _cpu_line("model name") or platform.processor() or platform.machine(),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in flags],
        "memory_bytes": _memory_bytes(),
        "nvidia": _nvidia_cards(),
    }


def read_packages(names: Iterable[str]) -> dict[str, str | None]:
    """Installed versions; None for a package that isn't there."""
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def read_devices() -> list[dict[str, Any]] | str:
    """The devices of jax, or why there are none. Their memory is not taken."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        from jaxllm.runner.devices import list_devices

        return [dataclasses.asdict(device) for device in list_devices()]
    except (ImportError, RuntimeError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


def read_cache() -> dict[str, Any]:
    """Where compiled programs and converted models are kept, and how much is there."""
    from jaxllm.models.loading.cache import cache_directory

    directory = cache_directory()
    files = [path for path in directory.rglob("*") if path.is_file()] if directory.exists() else []
    return {
        "directory": str(directory),
        "num_files": len(files),
        "num_bytes": sum(path.stat().st_size for path in files),
    }


def read_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that matter, without their secrets."""
    return {
        name: masked(name, value)
        for name, value in sorted(environment.items())
        if name.split("_")[0] in VARIABLES or name in OTHER_VARIABLES
    }


def masked(name: str, value: str) -> str:
    """The value, unless its name says that it is secret; user and password in an address are left out too."""
    if value and SECRET_WORDS & set(name.upper().split("_")):
        return "***"
    return _USER_INFO.sub("***", value)


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _cpu_line(*names: str) -> str:
    """The first line of /proc/cpuinfo that begins with one of the names, without it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(names)), "")


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _nvidia_cards() -> list[str]:
    """Name, driver and memory of each card, by the driver's own tool: it tells of cards that jax can't see."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        finished = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"{type(error).__name__}: {error}"]
    return (finished.stdout if finished.returncode == 0 else finished.stdout + finished.stderr).strip().splitlines()
