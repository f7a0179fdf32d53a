"""A line about the engine every few seconds while it works."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from jaxllm.errors import ValidationError
from jaxllm.frontend.statistics import RequestStats, StepStats

_logger = logging.getLogger(__name__)

_VARIABLES = ("JAXLLM_LOG_STATS_INTERVAL", "VLLM_LOG_STATS_INTERVAL")
_DEFAULT_SECONDS = 10.0


def log_interval() -> float:
    """Seconds between two lines: JAXLLM_LOG_STATS_INTERVAL, VLLM_LOG_STATS_INTERVAL, or 10."""
    for name in _VARIABLES:
        text = os.environ.get(name)
        if text:
            try:
                seconds = float(text)
            except ValueError:
                seconds = 0.0
            if not 0.0 < seconds < float("inf"):
                raise ValidationError(f"{name} must be a number of seconds above 0, got {text!r}", parameter=name)
            return seconds
    return _DEFAULT_SECONDS


class StatisticsLog:
    """A listener that logs throughput, load and cache use; while nothing runs it says nothing."""

    def __init__(self, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._last_step = float("-inf")
        self._start(self._last_step)

    def on_step(self, stats: StepStats) -> None:
        """Counts the step, and logs when it is time."""
        now = self._clock()
        if now - self._last_step > self._interval:  # after a pause, throughput is that of the new work alone
            self._start(now - stats.total_seconds)
        self._last_step = now
        self._num_prompt_tokens += stats.num_prompt_tokens
        self._num_generation_tokens += stats.num_generation_tokens
        self._num_queries += stats.prefix_cache_queries
        self._num_hits += stats.prefix_cache_hits
        self._num_preemptions += stats.num_preemptions
        if now - self._started >= self._interval:
            self._log(stats, now - self._started)
            self._start(now)

    def on_finished(self, stats: RequestStats) -> None:
        """The line tells of steps only."""

    def _start(self, now: float) -> None:
        self._started = now
        self._num_prompt_tokens = self._num_generation_tokens = 0
        self._num_queries = self._num_hits = self._num_preemptions = 0

    def _log(self, stats: StepStats, seconds: float) -> None:
        preemptions = f", Preemptions: {self._num_preemptions}" if self._num_preemptions else ""
        _logger.info(
            "Avg prompt throughput: %.1f tokens/s, Avg generation throughput: %.1f tokens/s, Running: %d reqs, "
            "Waiting: %d reqs, KV cache usage: %.1f%%, Prefix cache hit rate: %.1f%%%s",
            self._num_prompt_tokens / seconds,
            self._num_generation_tokens / seconds,
            stats.num_running,
            stats.num_waiting,
            100 * stats.kv_cache_usage,
            100 * self._num_hits / max(self._num_queries, 1),
            preemptions,
        )
