from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from jaxllm.runner.device_memory import DeviceMemory, set_memory_share

GIB = 1 << 30


@pytest.fixture(autouse=True)
def no_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "")


def gpu(limit: int, in_use: int = 0) -> Any:
    return SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": limit, "bytes_in_use": in_use})


def test_total_is_more_than_what_jax_set_aside() -> None:
    set_memory_share(0.9)
    assert os.environ["XLA_CLIENT_MEM_FRACTION"] == "0.95"
    assert DeviceMemory.of([gpu(76 * GIB, GIB)]) == DeviceMemory(total=80 * GIB, limit=76 * GIB, in_use=GIB)


def test_a_larger_share_is_set_aside_on_request() -> None:
    set_memory_share(0.98)
    assert os.environ["XLA_CLIENT_MEM_FRACTION"] == "0.98"


@pytest.mark.parametrize("name", ["XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"])
def test_the_users_share_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "0.5")
    set_memory_share(0.9)
    assert sorted([os.environ["XLA_CLIENT_MEM_FRACTION"], os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"]]) == ["", "0.5"]
    assert DeviceMemory.of([gpu(40 * GIB)]).total == 80 * GIB


def test_the_device_with_the_least_room_counts() -> None:
    devices = [gpu(76 * GIB), gpu(76 * GIB, 2 * GIB), gpu(75 * GIB)]
    assert DeviceMemory.of(devices).in_use == 2 * GIB


def test_virtual_devices_share_the_host() -> None:
    one, four = (DeviceMemory.of(jax.devices("cpu")[:count]) for count in (1, 4))
    assert 0 < four.total < one.total / 2
    assert one.limit > 100 * 2**20
