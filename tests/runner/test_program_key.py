from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from jaxllm.runner import program_key as module
from jaxllm.runner.program_key import machine_key, program_key


def fake_device(kind: str = "NVIDIA H100 80GB HBM3", backend: str = "cuda 13000") -> Any:
    return SimpleNamespace(platform="gpu", device_kind=kind, id=0, client=SimpleNamespace(platform_version=backend))


def test_key_tells_configurations_apart() -> None:
    devices = jax.devices()[:1]
    assert program_key(devices, "a", 1) == program_key(devices, "a", 1)
    assert program_key(devices, "a", 1) != program_key(devices, "a", 2)


def test_key_tells_devices_and_backends_apart() -> None:
    key = machine_key([fake_device()])
    assert key == machine_key([fake_device()])
    assert key != machine_key([fake_device(kind="NVIDIA A100-SXM4-80GB")])
    assert key != machine_key([fake_device(backend="cuda 12090")])
    assert key != machine_key([fake_device(), fake_device()])


def test_key_tells_drivers_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for version in ("570.86", "580.65"):
        driver = tmp_path / version
        driver.write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}")
        monkeypatch.setattr(module, "_NVIDIA_DRIVER", driver)
        module._driver.cache_clear()
        keys.append(machine_key([fake_device()]))
    module._driver.cache_clear()
    assert keys[0] != keys[1]


def test_key_tells_settings_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    key = machine_key([fake_device()])
    with jax.default_matmul_precision("highest"):
        assert machine_key([fake_device()]) != key
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    assert machine_key([fake_device()]) != key
