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
    num_saved_tokens: int = 0
    num_prompt_tokens: int = 0
    num_generation_tokens: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    num_steps_read: int = 0
    num_tokens_read: int = 0
    schedule_seconds: float = 0.0
    dispatch_seconds: float = 0.0
    wait_seconds: float = 0.0
    update_seconds: float = 0.0
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
    num_saved_tokens: int
    """Tokens whose keys and values went to the host's memory when their requests were preempted."""
    num_prompt_tokens: int
    """Prompt tokens of all requests that were admitted, each counted once, cached ones included."""
    num_generation_tokens: int
    """Generated tokens that were handed out."""
    prefix_cache_queries: int
    """Prompt tokens looked up in the prefix cache when their request was first admitted."""
    prefix_cache_hits: int
    """Those of them that were found."""
    num_steps_read: int
    """Steps whose results were read."""
    num_tokens_read: int
    """Tokens computed in those."""
    schedule_seconds: float
    """Time spent on planning steps."""
    dispatch_seconds: float
    """Time spent on handing steps to the device."""
    wait_seconds: float
    """Time spent on waiting for results of the device and reading them."""
    update_seconds: float
    """Time spent on taking results into the requests."""
    finished_by_reason: Mapping[FinishReason, int]
    """Finished requests; a reason that never happened is absent."""
