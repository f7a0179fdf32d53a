"""How much memory devices have."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

_SHARE = "XLA_CLIENT_MEM_FRACTION"
_OLD_SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION"
"""JAX's variables for the share of a GPU that it sets aside; it refuses to be given both."""
_LEAST_SHARE = 0.95
"""What is not JAX's is left to CUDA: contexts, code and graphs."""


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """Bytes of one device. A CPU's devices share the host's memory evenly."""

    total: int
    """Of a host, what is available."""
    limit: int
    """What JAX gives out of them."""
    in_use: int
    """What others in this process have of these already."""

    @classmethod
    def of(cls, devices: Sequence[jax.Device]) -> DeviceMemory:
        """Of the device with the least room."""
        platform = devices[0].platform
        if platform == "cpu":
            available = host_memory() // len(devices)
            return cls(total=available, limit=available, in_use=0)
        share = float(_given_share() or 1.0) if platform == "gpu" else 1.0
        found = []
        for device in devices:
            stats = device.memory_stats() or {}
            limit = stats.get("bytes_limit", 0)
            found.append(cls(total=int(limit / share), limit=limit, in_use=stats.get("bytes_in_use", 0)))
        return min(found, key=lambda one: one.limit - one.in_use)


def set_memory_share(utilization: float) -> None:
    """Lets JAX set aside what the engine may take of a GPU, instead of a smaller share by its own rule.

    A share that the user set stays. Works before the first use of a device only.
    """
    if _given_share() is None:
        os.environ[_SHARE] = f"{max(utilization, _LEAST_SHARE):.2f}"


def _given_share() -> str | None:
    return os.environ.get(_SHARE) or os.environ.get(_OLD_SHARE) or None


def host_memory() -> int:
    """Bytes that programs on this host can still take: what is free, and what files only borrow."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = next(line.split() for line in lines if line.startswith("MemAvailable:"))
        return int(fields[1]) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
