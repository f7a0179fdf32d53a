"""Gathers what listeners hear, and costs next to nothing while there are none."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from jaxllm.frontend.statistics import StatsListener, StepStats

if TYPE_CHECKING:
    from jaxllm.engine.engine import Engine
    from jaxllm.engine.metrics import EngineMetrics
    from jaxllm.frontend.completion import Completion
    from jaxllm.frontend.request_maker import Running

_logger = logging.getLogger(__name__)


class StatisticsRecorder:
    """Follows the steps of one engine for its listeners."""

    def __init__(self, engine: Engine, num_compiles: Callable[[], int]) -> None:
        self.listeners: list[StatsListener] = []
        self._engine = engine
        self._num_compiles = num_compiles
        self._num_compiles_at_start = num_compiles()
        self._before: EngineMetrics | None = None
        self._output_seconds = 0.0
        self._times_to_first_token: list[float] = []
        self._inter_token_latencies: list[float] = []

    def start_step(self) -> None:
        """Remembers how things stand if somebody listens."""
        if not self.listeners:
            self._before = None
        elif self._before is None:
            self._before = self._engine.metrics()

    def record_token(self, request: Running, completion: Completion, now: float) -> None:
        """A completion got tokens; called before it takes them in."""
        if completion.last_token_time is not None:
            self._inter_token_latencies.append(now - completion.last_token_time)
        elif request.has_no_token:
            self._times_to_first_token.append(now - request.arrival_time)

    def finish_step(self, output_seconds: float) -> None:
        """Tells the listeners, if a step's results were read."""
        if self._before is None:
            return
        self._output_seconds += output_seconds
        now = self._engine.metrics()
        if now.num_steps_read == self._before.num_steps_read:
            return
        stats = self._make_stats(self._before, now)
        self._before = now
        self._output_seconds = 0.0
        self._times_to_first_token, self._inter_token_latencies = [], []
        self._tell(lambda listener: listener.on_step(stats))

    def finish_request(self, request: Running) -> None:
        """Tells the listeners of a request that ended, or whose caller is gone."""
        if self.listeners:
            stats = request.statistics()
            self._tell(lambda listener: listener.on_finished(stats))

    def _tell(self, call: Callable[[StatsListener], None]) -> None:
        """A listener that fails must not stop the engine, nor be heard of at every step: it is told no more."""
        for listener in list(self.listeners):
            try:
                call(listener)
            except Exception:
                _logger.exception("%r failed; it hears no more statistics", listener)
                self.listeners.remove(listener)

    def _make_stats(self, before: EngineMetrics, now: EngineMetrics) -> StepStats:
        return StepStats(
            num_tokens=now.num_tokens_read - before.num_tokens_read,
            num_prompt_tokens=now.num_prompt_tokens - before.num_prompt_tokens,
            num_generation_tokens=now.num_generation_tokens - before.num_generation_tokens,
            num_running=now.num_running,
            num_waiting=now.num_waiting,
            kv_cache_usage=now.kv_cache_usage,
            num_preemptions=now.num_preemptions - before.num_preemptions,
            prefix_cache_queries=now.prefix_cache_queries - before.prefix_cache_queries,
            prefix_cache_hits=now.prefix_cache_hits - before.prefix_cache_hits,
            schedule_seconds=now.schedule_seconds - before.schedule_seconds,
            dispatch_seconds=now.dispatch_seconds - before.dispatch_seconds,
            wait_seconds=now.wait_seconds - before.wait_seconds,
            output_seconds=now.update_seconds - before.update_seconds + self._output_seconds,
            num_compiles=self._num_compiles() - self._num_compiles_at_start,
            times_to_first_token=self._times_to_first_token,
            inter_token_latencies=self._inter_token_latencies,
        )
