"""What the memory goes to: how many pages the KV cache gets, and the longest sequence it can hold."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import jax

from jaxllm.config import EngineConfig
from jaxllm.errors import ValidationError
from jaxllm.models.attention import HeadLayout
from jaxllm.models.config import ModelConfig
from jaxllm.runner.device_memory import DeviceMemory, host_memory

logger = logging.getLogger(__name__)

_CPU_CACHE_BYTES = 1 << 30
"""What the cache takes of a CPU's memory, unless the user says otherwise or one sequence needs more."""


@dataclass(frozen=True, kw_only=True)
class CacheSize:
    """The pool of pages."""

    num_pages: int
    """The page that takes padding writes included."""
    max_model_len: int
    """Longest sequence that fits, at most what was asked for."""


def size_cache(config: EngineConfig, *, model_len: int, page_bytes: int, max_num_seqs: int, free: int) -> CacheSize:
    """Sizes the pool for pages of `page_bytes` (all layers, all devices) with `free` bytes of memory left.

    A model longer than the pool is cut with a log line. Raises ValidationError when the user asked for more than fits,
    or for more than the model has, and when not even one page fits.
    """
    wanted_len = wanted_model_len(config, model_len)
    page_size = config.page_size
    budget = config.kv_cache_memory_bytes or free
    num_pages = min(budget // page_bytes, max_num_seqs * -(-wanted_len // page_size) + 1)
    fitting_len = (num_pages - 1) * page_size
    if fitting_len < 1:
        raise ValidationError(
            f"no memory for the KV cache: {budget:,} bytes are left, and a page of {page_size} tokens takes "
            f"{page_bytes:,} bytes (one more page is reserved)",
            parameter="kv_cache_memory_bytes",
        )
    if fitting_len >= wanted_len:
        return CacheSize(num_pages=num_pages, max_model_len=wanted_len)
    if isinstance(config.max_model_len, int):
        raise ValidationError(
            f"max_model_len={wanted_len} does not fit in the KV cache of {budget:,} bytes; the longest that fits is "
            f"{fitting_len}. Lower max_model_len, or raise kv_cache_memory_bytes or device_memory_utilization.",
            parameter="max_model_len",
        )
    logger.warning("The KV cache holds %d tokens: max_model_len shrinks from %d to that.", fitting_len, wanted_len)
    return CacheSize(num_pages=num_pages, max_model_len=fitting_len)


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What the memory of one device goes to, in bytes. A CPU's devices share the host's memory evenly."""

    device: DeviceMemory
    utilization: float
    weights: int
    slots: int
    """State of the requests, and constants, whatever runs."""
    programs: int
    are_programs_measured: bool
    """Whether `programs` is XLA's number or an estimate."""
    most_cache: int | None
    """Bytes that the cache takes at most; None is all there are."""

    @property
    def usable(self) -> int:
        """Bytes that the engine may take: its share of all there are, as far as JAX gives them out."""
        return min(int(self.device.total * self.utilization), self.device.limit)

    @property
    def cache(self) -> int:
        """Bytes that the cache may take."""
        free = max(0, self.usable - self._taken)
        return free if self.most_cache is None else min(free, self.most_cache)

    @property
    def _taken(self) -> int:
        return self.device.in_use + self.weights + self.slots + self.programs

    def lines(self, cache_bytes: int, cache_note: str) -> list[str]:
        """The plan as a table, once it is known what the cache takes."""
        rows = [
            ("memory", self.device.total, ""),
            (f"usable, {self.usable / max(self.device.total, 1):.0%} of it", self.usable, ""),
            ("in use before", self.device.in_use, ""),
            ("weights", self.weights, ""),
            ("slots", self.slots, ""),
            ("programs", self.programs, "measured" if self.are_programs_measured else "estimated"),
            ("KV cache", cache_bytes, cache_note),
            ("left", self.usable - self._taken - cache_bytes, ""),
        ]
        width = max(len(name) for name, _, _ in rows)
        return [
            f"  {name:<{width}} {_size(size)}  {note}".rstrip()
            for name, size, note in rows
            if size or name != "in use before"
        ]


def _size(num_bytes: int) -> str:
    """Ten characters that stand below each other."""
    return f"{num_bytes / 2**30:6.2f} GiB" if abs(num_bytes) >= 2**30 else f"{num_bytes / 2**20:6.1f} MiB"


def most_cache_bytes(
    config: EngineConfig, devices: list[jax.Device], *, model_len: int, cache_bytes_per_token: int
) -> int | None:
    """Bytes that the cache takes at most of each device: a CPU's memory is not the engine's alone."""
    if devices[0].platform != "cpu":
        return None
    sequence = (wanted_model_len(config, model_len) + 2 * config.page_size) * cache_bytes_per_token
    return max(_CPU_CACHE_BYTES, sequence) // len(devices)


def count_host_pages(swap_space: float | None, *, num_devices: int, num_pages: int, page_bytes: int) -> int:
    """Pages of `page_bytes` that preempted requests may keep in the host's memory; `swap_space` is in GiB a device."""
    if swap_space is not None:
        return int(swap_space * num_devices * 2**30) // page_bytes
    return min(num_pages // 4, host_memory() // 4 // page_bytes)


def kv_bytes_per_token(model: ModelConfig, layout: HeadLayout, itemsize: int) -> int:
    """Bytes that one token takes in the cache, over all layers and devices."""
    return 2 * model.num_layers * layout.kv_heads * layout.head_dim * itemsize


def wanted_model_len(config: EngineConfig, model_len: int) -> int:
    """The longest sequence that the user asks for, or that the model has positions for."""
    wanted = config.max_model_len if isinstance(config.max_model_len, int) else model_len
    if wanted > model_len:
        raise ValidationError(
            f"max_model_len={wanted} is longer than the model's {model_len} positions", parameter="max_model_len"
        )
    return wanted
