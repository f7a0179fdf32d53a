"""What the device decides when the user does not: dtype, rows and tokens of a step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxllm.config import EngineConfig

_CPU_LIMITS = (32, 512)
_ACCELERATOR_LIMITS = (512, 8192)
_FAST_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
"""Processor flags with which bfloat16 products are faster than float32 ones."""
_CACHE_DTYPES = {"fp8": "float8_e4m3fn", "fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}


@dataclass(frozen=True)
class StepLimits:
    """Largest step."""

    max_num_seqs: int
    max_num_batched_tokens: int


def choose_limits(config: EngineConfig, platform: str) -> StepLimits:
    """The configured limits, else those that suit the platform; every row can get a token."""
    default_seqs, default_tokens = _CPU_LIMITS if platform == "cpu" else _ACCELERATOR_LIMITS
    seqs = config.max_num_seqs or min(default_seqs, config.max_num_batched_tokens or default_seqs)
    tokens = config.max_num_batched_tokens or max(default_tokens, seqs)
    assert tokens >= seqs, "EngineConfig refuses fewer tokens than rows"
    return StepLimits(seqs, tokens)


def choose_dtype(wanted: str, saved: str, platform: str) -> str:
    """`auto` is what the checkpoint was saved in, float32 ones in bfloat16; a CPU without bfloat16 runs float32."""
    if wanted != "auto":
        return wanted
    if platform == "cpu":
        return "bfloat16" if _has_fast_bfloat16() else "float32"
    return saved if saved in ("bfloat16", "float16") else "bfloat16"


def choose_cache_dtype(wanted: str, dtype: str, saved: str | None) -> str:
    """The name by which jax knows the type of keys and values; `auto` is what the checkpoint says, else `dtype`."""
    return (saved or dtype) if wanted == "auto" else _CACHE_DTYPES.get(wanted, wanted)


def _has_fast_bfloat16() -> bool:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "").split()
    return any(flag in flags for flag in _FAST_BFLOAT16)
