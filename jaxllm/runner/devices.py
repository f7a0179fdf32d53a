"""The devices that jax sees, for reports."""

from __future__ import annotations

from dataclasses import dataclass

import jax


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """One device."""

    id: int
    platform: str
    kind: str
    memory_bytes: int | None
    """What jax may use of its memory; None where it doesn't say (a CPU)."""


def list_devices() -> list[DeviceFacts]:
    """All devices of the default platform; raises RuntimeError when it can't be started."""
    return [
        DeviceFacts(
            id=device.id,
            platform=device.platform,
            kind=device.device_kind,
            memory_bytes=(device.memory_stats() or {}).get("bytes_limit"),
        )
        for device in jax.devices()
    ]
