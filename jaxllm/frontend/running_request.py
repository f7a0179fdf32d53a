"""A user's request while it runs: one prompt and its completions, and the outputs it gives."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from jaxllm.frontend.completion import Completion
from jaxllm.frontend.prompts import TokenizedPrompt
from jaxllm.frontend.request_clock import RequestClock
from jaxllm.frontend.statistics import RequestStats
from jaxllm.frontend.token_logprobs import TokenTexts, to_position_logprobs
from jaxllm.outputs import BeamSearchOutput, FinishReason, PositionLogprobs, RequestMetrics, RequestOutput
from jaxllm.sampling_params import RequestOutputKind, SamplingParams

if TYPE_CHECKING:
    from jaxllm.engine.output import EngineOutput

Outbox = deque[RequestOutput | BeamSearchOutput]
"""Where the outputs of a caller's requests wait for it."""


class RunningRequest:
    """Collects the engine's news of a prompt's sequences and puts outputs into the caller's `outbox`."""

    def __init__(
        self,
        *,
        request_id: str,
        engine_id: str,
        prompt: TokenizedPrompt,
        params: SamplingParams,
        completions: list[Completion],
        token_texts: TokenTexts,
        outbox: Outbox,
        stream_interval: int,
        keeps_metrics: bool,
    ) -> None:
        self.request_id = request_id
        self._engine_id = engine_id
        self.completions = completions
        self._num_running = len(completions)
        self._prompt = prompt
        self._params = params
        self._token_texts = token_texts
        self._outbox = outbox
        self._stream_interval = max(stream_interval, params.stream_interval or 1)
        self._keeps_metrics = keeps_metrics
        self._prompt_logprobs: list[PositionLogprobs | None] | None = None
        if params.prompt_logprobs is not None:
            self._prompt_logprobs = [None]
        self._num_prompt_logprobs_shown = 0
        self._num_cached_tokens: int | None = None
        self._clock = RequestClock()
        self.arrival_time = self._clock.arrival_time
        """Of `time.monotonic()`."""
        self._first_scheduled_time: float | None = None
        self._first_token_time: float | None = None
        self._finished_time: float | None = None

    @property
    def sequence_ids(self) -> list[str]:
        """The engine's names of its sequences, in order of their index."""
        if len(self.completions) == 1:
            return [self._engine_id]
        return [f"{self._engine_id}-{completion.index}" for completion in self.completions]

    @property
    def is_finished(self) -> bool:
        """Whether all completions have ended."""
        return self._num_running == 0

    @property
    def has_no_token(self) -> bool:
        """Whether no completion has a token yet."""
        return self._first_token_time is None

    def update(self, completion: Completion, news: EngineOutput, now: float) -> bool:
        """Takes in news of one sequence that came at `now`; True when a stop string ended it and the engine must be
        told."""
        if self._prompt_logprobs is not None:
            for entry in news.new_prompt_logprobs:
                count = self._params.prompt_logprobs
                self._prompt_logprobs.append(to_position_logprobs(entry, count, self._token_texts))
        if self._num_cached_tokens is None:
            self._num_cached_tokens = news.num_cached_tokens
            self._first_scheduled_time = news.admission_time
        completion.num_preemptions = news.num_preemptions
        if news.new_token_ids:
            if self._first_token_time is None:
                self._first_token_time = now
            completion.last_token_time = now
        must_tell_engine = completion.update(news)
        if completion.is_finished:
            self._num_running -= 1
            self._finished_time = now
        return must_tell_engine

    def end(self, reason: FinishReason) -> None:
        """Ends what still runs."""
        for completion in self.completions:
            if not completion.is_finished:
                completion.end(reason)
        self._num_running = 0
        self._finished_time = time.monotonic()

    def put_output(self) -> None:
        """Puts an output into the outbox if one is due."""
        if self._params.output_kind is RequestOutputKind.FINAL_ONLY:
            due = self.completions if self.is_finished else []
        else:
            due = [completion for completion in self.completions if completion.is_due(self._stream_interval)]
        if due:
            delta = self._params.output_kind is RequestOutputKind.DELTA
            self._outbox.append(self._make_output(due if delta else self.completions, delta=delta))

    def _make_output(self, shown: list[Completion], *, delta: bool) -> RequestOutput:
        prompt_logprobs = self._prompt_logprobs
        if delta and prompt_logprobs is not None:
            prompt_logprobs = prompt_logprobs[self._num_prompt_logprobs_shown :]
            self._num_prompt_logprobs_shown += len(prompt_logprobs)
        return RequestOutput(
            request_id=self.request_id,
            prompt=self._prompt.text,
            prompt_token_ids=self._prompt.token_ids,
            outputs=[completion.show(delta=delta) for completion in shown],
            finished=self.is_finished,
            prompt_logprobs=prompt_logprobs,
            metrics=self._metrics() if self._keeps_metrics else None,
            num_cached_tokens=self._num_cached_tokens,
        )

    def statistics(self) -> RequestStats:
        """What listeners hear of it once it ended."""
        times = self._metrics()
        reasons = [completion.finish_reason for completion in self.completions]
        assert times.finished_time is not None, f"request {self.request_id} still runs"
        assert self._params.max_tokens is not None, f"request {self.request_id} was not prepared"
        return RequestStats(
            request_id=self.request_id,
            arrival_time=times.arrival_time,
            first_scheduled_time=times.first_scheduled_time,
            first_token_time=times.first_token_time,
            last_token_time=times.last_token_time,
            finished_time=times.finished_time,
            num_prompt_tokens=len(self._prompt.token_ids),
            num_cached_tokens=self._num_cached_tokens or 0,
            num_generation_tokens=times.num_generation_tokens,
            num_preemptions=sum(completion.num_preemptions for completion in self.completions),
            n=len(self.completions),
            max_tokens=self._params.max_tokens,
            finish_reasons=tuple(reason for reason in reasons if reason is not None),
        )

    def _metrics(self) -> RequestMetrics:
        last_times = [one.last_token_time for one in self.completions if one.last_token_time is not None]
        return RequestMetrics(
            arrival_time=self._clock.arrival_wall_time,
            first_scheduled_time=self._clock.wall_time(self._first_scheduled_time),
            first_token_time=self._clock.wall_time(self._first_token_time),
            last_token_time=self._clock.wall_time(max(last_times, default=None)),
            finished_time=self._clock.wall_time(self._finished_time) if self.is_finished else None,
            num_generation_tokens=sum(len(completion.token_ids) for completion in self.completions),
        )
