"""Numbers about the engine, for logs and for whoever exports them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxllm.engine.request import FinishReason


@dataclass(kw_only=True, slots=True)
class EngineCounters:
    """Totals since the engine was built; they only grow."""

    num_steps: int = 0
    num_scheduled_tokens: int = 0
    num_preemptions: int = 0
    num_prompt_tokens: int = 0
    num_generation_tokens: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    finished: Counter[FinishReason] = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineMetrics:
    """A snapshot of the engine."""

    num_running: int
    """Requests that hold a slot and pages."""
    num_waiting: int
    """Requests that wait to be admitted, preempted ones included."""
    kv_cache_usage: float
    """Share of the pages held by running requests, 0 to 1."""
    num_steps: int
    """Steps dispatched."""
    num_scheduled_tokens: int
    """Tokens computed in all steps, recomputed ones included."""
    num_preemptions: int
    num_prompt_tokens: int
    """Prompt tokens of all requests that were admitted, each counted once, cached ones included."""
    num_generation_tokens: int
    """Generated tokens that were handed out."""
    prefix_cache_queries: int
    """Prompt tokens looked up in the prefix cache when their request was first admitted."""
    prefix_cache_hits: int
    """Those of them that were found."""
    finished_by_reason: Mapping[FinishReason, int]
    """Finished requests; a reason that never happened is absent."""
