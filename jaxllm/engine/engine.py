"""The loop between scheduler and runner."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter

import numpy as np

from jaxllm.engine.beam_search import check_search
from jaxllm.engine.metrics import EngineCounters, EngineMetrics
from jaxllm.engine.output import EngineOutput
from jaxllm.engine.page_tables import PageTables
from jaxllm.engine.plan import PlannedStep
from jaxllm.engine.request import EngineRequest, FinishReason, Request
from jaxllm.engine.scheduler import Scheduler
from jaxllm.engine.swap_space import SwapSpace
from jaxllm.errors import EngineDeadError, ValidationError
from jaxllm.steps import BeamSettings, Runner, StepHandle

POLICIES = ("fcfs", "priority")

_MAX_IN_FLIGHT = 2
"""The device computes one step while the next one waits for it."""

_NEARLY_FULL = 0.75
"""Share of the pages in use from which on memory is sought for what preempted requests have computed."""


class Engine:
    """Serves requests on a runner, one step ahead of the results it has read. Not thread-safe."""

    def __init__(
        self,
        runner: Runner,
        *,
        scheduling_policy: str = "fcfs",
        enable_prefix_caching: bool = True,
        chunk_size: int | None = None,
    ) -> None:
        _check_arguments(runner, scheduling_policy, chunk_size)
        self._runner = runner
        self._heeds_priority = scheduling_policy == "priority"
        self._counters = EngineCounters()
        self._page_tables = PageTables(
            num_pages=runner.num_pages, page_size=runner.page_size, enable_prefix_caching=enable_prefix_caching
        )
        self._swap_space = SwapSpace(runner.page_size)
        self._scheduler = Scheduler(
            page_tables=self._page_tables,
            swap_space=self._swap_space,
            max_num_seqs=runner.max_num_seqs,
            max_num_batched_tokens=runner.max_num_batched_tokens,
            max_chunk_size=chunk_size or runner.max_num_batched_tokens,
            counters=self._counters,
        )
        self._requests: dict[str, Request] = {}
        self._num_added = 0
        self._in_flight: deque[tuple[PlannedStep, StepHandle]] = deque()
        self._death: str | None = None

    def add_request(self, request: EngineRequest) -> None:
        """Queues a request; its first output comes from a later `step`."""
        self._check_alive()
        if request.request_id in self._requests:
            raise ValidationError(f"request_id {request.request_id!r} belongs to an unfinished request already")
        priority = request.priority if self._heeds_priority else 0
        arrival_time = request.arrival_time if self._heeds_priority else 0.0
        prompt_token_ids = self._check_prompt(request)
        if request.beam is not None:
            params = request.sampling_params
            self.check_search(
                request.beam,
                num_prompt_tokens=len(prompt_token_ids),
                max_tokens=params.max_tokens or 1,
                num_end_ids=0 if params.ignore_eos else len(request.eos_token_ids),
            )
        internal = Request(
            request,
            prompt_token_ids=prompt_token_ids,
            max_model_len=self._runner.max_model_len,
            order=(priority, arrival_time, self._num_added),
        )
        self._num_added += 1
        self._requests[request.request_id] = internal
        self._scheduler.add(internal)

    def check_search(
        self, settings: BeamSettings, *, num_prompt_tokens: int, max_tokens: int, num_end_ids: int
    ) -> None:
        """Raises ValidationError for a beam search that is too large to run on this engine."""
        check_search(
            settings,
            num_prompt_tokens=num_prompt_tokens,
            max_tokens=max_tokens,
            num_end_ids=num_end_ids,
            runner=self._runner,
        )

    def abort(self, request_ids: Iterable[str]) -> None:
        """Ends requests without further output; ids that are unknown or finished are ignored."""
        for request_id in request_ids:
            self._end(request_id, "abort")

    def finish(self, request_id: str) -> None:
        """Ends a request whose text reached a stop string, without further output; unknown ids are ignored."""
        self._end(request_id, "stop")

    def step(self) -> list[EngineOutput]:
        """Dispatches the next step if there is one to compute, then reads the oldest step in flight.

        Returns nothing after the first dispatch: the next call dispatches the following step before it reads.
        """
        self._check_alive()
        has_dispatched = len(self._in_flight) < _MAX_IN_FLIGHT and self._dispatch()
        if not self._in_flight:
            assert not self._requests, f"{len(self._requests)} requests are left and none can be scheduled"
            return []
        if has_dispatched and len(self._in_flight) < _MAX_IN_FLIGHT:
            return []
        return self._read()

    def has_unfinished_requests(self) -> bool:
        """Whether `step` should be called again."""
        return bool(self._requests)

    def preempt_all(self) -> None:
        """Takes the pages of all running requests, which will compute their tokens again."""
        self._scheduler.running.preempt_all()

    def reset_prefix_cache(self) -> bool:
        """Forgets all cached pages, and those saved of preempted requests; False, and nothing done, while running
        requests hold pages."""
        if not self._page_tables.reset_prefix_cache():
            return False
        self._swap_space.clear()
        return True

    def metrics(self) -> EngineMetrics:
        """A snapshot of counters and gauges."""
        counters = self._counters
        pool = self._page_tables.pool
        return EngineMetrics(
            num_running=len(self._scheduler.running),
            num_waiting=len(self._scheduler.waiting),
            kv_cache_usage=pool.usage,
            num_steps=counters.num_steps,
            num_scheduled_tokens=counters.num_scheduled_tokens,
            num_preemptions=counters.num_preemptions,
            num_saved_tokens=counters.num_saved_tokens,
            num_prompt_tokens=counters.num_prompt_tokens,
            num_generation_tokens=counters.num_generation_tokens,
            prefix_cache_queries=counters.prefix_cache_queries,
            prefix_cache_hits=counters.prefix_cache_hits,
            num_steps_read=counters.num_steps_read,
            num_tokens_read=counters.num_tokens_read,
            schedule_seconds=counters.schedule_seconds,
            dispatch_seconds=counters.dispatch_seconds,
            wait_seconds=counters.wait_seconds,
            update_seconds=counters.update_seconds,
            finished_by_reason=dict(counters.finished),
        )

    def shutdown(self) -> None:
        """Drops all requests and frees the device; a second call does nothing."""
        if self._death == _SHUT_DOWN:
            return
        self._die(_SHUT_DOWN, "abort")
        self._runner.shutdown()

    def _dispatch(self) -> bool:
        with self._dies_on(BaseException):
            started = perf_counter()
            self._swap_space.grow(self._runner.num_host_pages)
            planned = self._scheduler.schedule()
            scheduled = perf_counter()
            self._counters.schedule_seconds += scheduled - started
            if planned is None:
                return False
            if self._page_tables.pool.usage > _NEARLY_FULL:
                self._runner.reserve_host_pages()
            self._in_flight.append((planned, self._runner.dispatch(planned.step)))
            self._counters.dispatch_seconds += perf_counter() - scheduled
            return True

    def _read(self) -> list[EngineOutput]:
        planned, handle = self._in_flight[0]
        started = perf_counter()
        # A KeyboardInterrupt while waiting leaves the step where it is: the next call reads it again.
        with self._dies_on(Exception):
            result = handle.result()
        received = perf_counter()
        with self._dies_on(BaseException):
            self._in_flight.popleft()
            outputs = self._scheduler.update(planned, result)
            for output in outputs:
                if output.finish_reason is not None:
                    del self._requests[output.request_id]
            self._count_read(planned, received - started, perf_counter() - received)
            return outputs

    def _count_read(self, planned: PlannedStep, wait_seconds: float, update_seconds: float) -> None:
        counters = self._counters
        counters.num_steps_read += 1
        counters.num_tokens_read += planned.num_tokens
        counters.wait_seconds += wait_seconds
        counters.update_seconds += update_seconds

    def _end(self, request_id: str, reason: FinishReason) -> None:
        request = self._requests.pop(request_id, None)
        if request is not None:
            self._scheduler.finish(request, reason)

    def _check_prompt(self, request: EngineRequest) -> np.ndarray:
        token_ids = np.asarray(request.prompt_token_ids)
        if token_ids.size == 0:
            raise ValidationError("expected a prompt of at least one token, got an empty one", parameter="prompt")
        if token_ids.ndim != 1 or token_ids.dtype.kind not in "iu":
            raise ValidationError(
                f"expected a flat sequence of integer token ids, got shape {token_ids.shape} of {token_ids.dtype}",
                parameter="prompt",
            )
        max_model_len = self._runner.max_model_len
        if len(token_ids) >= max_model_len:
            raise ValidationError(
                f"expected a prompt of fewer than max_model_len={max_model_len} tokens, got {len(token_ids)}",
                parameter="prompt",
            )
        vocab_size = self._runner.vocab_size
        if token_ids.min() < 0 or token_ids.max() >= vocab_size:
            wrong = token_ids[(token_ids < 0) | (token_ids >= vocab_size)][0]
            raise ValidationError(f"expected token ids from 0 to {vocab_size - 1}, got {wrong}", parameter="prompt")
        return token_ids

    def _check_alive(self) -> None:
        if self._death is not None:
            raise EngineDeadError(self._death)

    @contextmanager
    def _dies_on(self, error_type: type[BaseException]) -> Iterator[None]:
        """After an error inside, host and device may disagree about every request: nothing can be served any more."""
        try:
            yield
        except error_type as error:
            self._die(f"the engine failed while it ran a step: {error!r}", "error")
            if isinstance(error, Exception):
                raise EngineDeadError(self._death) from error
            raise

    def _die(self, death: str, reason: FinishReason) -> None:
        self._death = death
        self._counters.finished[reason] += len(self._requests)
        self._requests.clear()
        self._in_flight.clear()


_SHUT_DOWN = "the engine was shut down"


def _check_arguments(runner: Runner, scheduling_policy: str, chunk_size: int | None) -> None:
    if scheduling_policy not in POLICIES:
        raise ValidationError(
            f"scheduling_policy: expected one of {', '.join(POLICIES)}, got {scheduling_policy!r}",
            parameter="scheduling_policy",
        )
    if chunk_size is not None and chunk_size < 1:
        raise ValidationError(f"chunk_size: expected at least 1 token, got {chunk_size}", parameter="chunk_size")
    longest = (runner.num_pages - 1) * runner.page_size
    if longest < runner.max_model_len:
        raise ValidationError(
            f"the KV cache holds one sequence of at most {longest} tokens, got max_model_len={runner.max_model_len}",
            parameter="max_model_len",
        )
