"""Host memory that a GPU's kernels read and write over the bus, taken piece by piece while steps run.

JAX's own pinned memory grows by doubling what it has, with everything that comes from the device waiting meanwhile:
several seconds in a machine that has to find gigabytes. Here a thread first touches the pages of a piece, which is
what takes the time, and then asks the driver to pin them, which is done in a few milliseconds.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import threading
import weakref
from typing import Any

import jax

logger = logging.getLogger(__name__)

_PORTABLE_AND_MAPPED = 1 | 2  # CU_MEMHOSTREGISTER_PORTABLE, _DEVICEMAP: all GPUs of the process may use it


class PinnedMemory:
    """Blocks of one size, page-aligned. With CUDA's unified addressing a kernel uses the addresses as the host does."""

    def __init__(self, device: jax.Device, *, block_bytes: int, num_blocks: int) -> None:
        """Takes nothing yet; `grow` takes up to `num_blocks` blocks."""
        self._device = device
        self._block_bytes = block_bytes
        self._most_blocks = num_blocks
        self._driver: Any = None
        self._blocks: list[mmap.mmap] = []
        self._addresses: list[int] = []
        self._growth: threading.Thread | None = None
        self._is_closing = False

    @property
    def num_blocks(self) -> int:
        """Blocks that are ready."""
        return len(self._addresses)

    def address(self, block: int) -> int:
        """Where a block that is ready begins."""
        return self._addresses[block]

    def grow(self) -> None:
        """Starts to take all blocks, in a thread; a second call does nothing."""
        if self._growth is None and self._most_blocks > 0:
            self._growth = threading.Thread(target=_take_all, args=(weakref.ref(self),), name="pin-memory", daemon=True)
            self._growth.start()

    def close(self) -> None:
        """Gives everything back; no program may use it any more."""
        self._is_closing = True
        if self._growth not in (None, threading.current_thread()):
            self._growth.join()
        for address in self._addresses:
            self._driver.cuMemHostUnregister(ctypes.c_void_p(address))
        self._addresses.clear()
        self._blocks.clear()

    def __del__(self) -> None:
        self.close()

    def take_block(self) -> bool:
        """Takes one block, in the thread that grows; False when there is nothing more to take."""
        if self._is_closing or len(self._addresses) == self._most_blocks:
            return False
        try:
            self._driver = self._driver or _enter_context(self._device)
            self._pin_block()
        except OSError as error:
            taken = len(self._addresses) * self._block_bytes
            logger.warning("Host memory for preempted requests stays at %.2f GiB: %s", taken / 2**30, error)
            return False
        return True

    def _pin_block(self) -> None:
        block = mmap.mmap(-1, self._block_bytes)
        address = ctypes.addressof(ctypes.c_char.from_buffer(block))
        ctypes.memset(address, 0, self._block_bytes)  # touches all pages; other threads go on meanwhile
        place, size = ctypes.c_void_p(address), ctypes.c_size_t(self._block_bytes)
        _check(self._driver.cuMemHostRegister_v2(place, size, _PORTABLE_AND_MAPPED), "cuMemHostRegister")
        self._blocks.append(block)
        self._addresses.append(address)


def _take_all(memory: weakref.ref[PinnedMemory]) -> None:
    """Grows as long as someone has the memory; holds it itself for one block at a time."""
    while (held := memory()) is not None and held.take_block():
        del held


def _enter_context(device: jax.Device) -> Any:
    """CUDA's driver, with this thread in the context that JAX uses."""
    driver = ctypes.CDLL("libcuda.so.1")
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    _check(driver.cuInit(0), "cuInit")
    _check(driver.cuDeviceGet(ctypes.byref(handle), device.local_hardware_id), "cuDeviceGet")
    _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle), "cuDevicePrimaryCtxRetain")
    _check(driver.cuCtxSetCurrent(context), "cuCtxSetCurrent")
    return driver


def _check(status: int, call: str) -> None:
    if status != 0:
        raise OSError(f"{call} failed with CUDA error {status}")
