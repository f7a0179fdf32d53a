"""How many pages the KV cache gets, and the longest sequence it can hold."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import jax

from jaxllm.config import EngineConfig
from jaxllm.errors import ValidationError
from jaxllm.models.attention import HeadLayout
from jaxllm.models.config import ModelConfig
from jaxllm.runner.defaults import StepLimits

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


def free_bytes(
    config: EngineConfig, devices: list[jax.Device], *, model_len: int, cache_bytes_per_token: int, reserved: int
) -> int:
    """Bytes that the cache may take. `reserved` is what programs need beside weights and cache, on every device."""
    if devices[0].platform == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        sequence = (wanted_model_len(config, model_len) + 2 * config.page_size) * cache_bytes_per_token
        return min(int(memory * config.device_memory_utilization), max(_CPU_CACHE_BYTES, sequence))
    free = []
    for device in devices:
        stats = device.memory_stats() or {}
        limit, used = stats.get("bytes_limit", 0), stats.get("bytes_in_use", 0)
        free.append(int(limit * config.device_memory_utilization) - used - reserved)
    return max(0, min(free)) * len(devices)


def workspace_bytes(model: ModelConfig, limits: StepLimits) -> int:
    """What a step makes beside weights and cache: logits, their float32 copies, and the activations of the MLP."""
    logits = 12 * limits.max_num_seqs * model.vocab_size
    return logits + 8 * limits.max_num_batched_tokens * (model.hidden_size + model.intermediate_size)


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
