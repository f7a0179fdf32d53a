"""Host memory grows block by block beside everything else, and what goes wrong stays there."""

from __future__ import annotations

import ctypes
import gc
import logging
import time
import weakref
from typing import Any

import jax
import pytest

from jaxllm.runner import pinned_memory
from jaxllm.runner.pinned_memory import PinnedMemory


class FakeDriver:
    """Registers up to `most_blocks` blocks."""

    def __init__(self, most_blocks: int) -> None:
        self.most_blocks = most_blocks
        self.registered: list[int] = []

    def cuMemHostRegister_v2(self, address: Any, size: Any, flags: int) -> int:
        if len(self.registered) == self.most_blocks:
            return 2
        self.registered.append(address.value)
        return 0

    def cuMemHostUnregister(self, address: Any) -> int:
        self.registered.remove(address.value)
        return 0


def make_memory(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, *, num_blocks: int = 3) -> PinnedMemory:
    monkeypatch.setattr(pinned_memory, "_enter_context", lambda device: driver)
    return PinnedMemory(jax.devices("cpu")[0], block_bytes=8192, num_blocks=num_blocks)


def wait_for(memory: PinnedMemory, num_blocks: int) -> None:
    end = time.monotonic() + 10
    while memory.num_blocks < num_blocks:
        assert time.monotonic() < end, f"{memory.num_blocks} blocks after 10 seconds"
        time.sleep(0.01)


def test_nothing_is_taken_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver(9)
    memory = make_memory(monkeypatch, driver)
    assert memory.num_blocks == 0
    memory.grow()
    memory.grow()
    wait_for(memory, 3)
    assert driver.registered == [memory.address(block) for block in range(3)]
    memory.close()
    assert (driver.registered, memory.num_blocks) == ([], 0)


def test_it_stays_as_large_as_the_driver_allows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    memory = make_memory(monkeypatch, FakeDriver(2))
    with caplog.at_level(logging.WARNING):
        memory.grow()
        wait_for(memory, 2)
        memory.close()
    assert "stays at 0.00 GiB: cuMemHostRegister failed with CUDA error 2" in caplog.text


def test_without_a_driver_there_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", fail)
    memory = PinnedMemory(jax.devices("cpu")[0], block_bytes=8192, num_blocks=3)
    with caplog.at_level(logging.WARNING):
        assert not memory.take_block()
    assert "stays at 0.00 GiB: libcuda.so.1: cannot open shared object file" in caplog.text


def test_forgotten_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver(10_000)
    memory = make_memory(monkeypatch, driver, num_blocks=10_000)
    memory.grow()
    wait_for(memory, 2)
    left = weakref.ref(memory)
    del memory
    end = time.monotonic() + 10
    while left() is not None and time.monotonic() < end:
        time.sleep(0.01)
        gc.collect()
    assert left() is None
    assert driver.registered == []
