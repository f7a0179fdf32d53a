"""A user's request while it runs: one prompt and its completions, and the outputs it gives."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from jaxllm.frontend.completion import Completion
from jaxllm.frontend.prompts import TokenizedPrompt
from jaxllm.frontend.token_logprobs import TokenTexts, to_position_logprobs
from jaxllm.outputs import PositionLogprobs, RequestMetrics, RequestOutput
from jaxllm.sampling_params import RequestOutputKind, SamplingParams

if TYPE_CHECKING:
    from jaxllm.engine.output import EngineOutput


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
        outbox: deque[RequestOutput],
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
        self._arrival_time = time.time()
        self._first_scheduled_time: float | None = None
        self._first_token_time: float | None = None
        self._last_token_time: float | None = None

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

    def update(self, completion: Completion, news: EngineOutput) -> bool:
        """Takes in news of one sequence; True when a stop string ended it and the engine must be told."""
        if self._prompt_logprobs is not None:
            for entry in news.new_prompt_logprobs:
                count = self._params.prompt_logprobs
                self._prompt_logprobs.append(to_position_logprobs(entry, count, self._token_texts))
        if self._num_cached_tokens is None:
            self._num_cached_tokens = news.num_cached_tokens
        now = time.time()
        self._first_scheduled_time = self._first_scheduled_time or now
        if news.new_token_ids:
            self._first_token_time = self._first_token_time or now
            self._last_token_time = now
        must_tell_engine = completion.update(news)
        self._num_running -= completion.is_finished
        return must_tell_engine

    def abort(self) -> None:
        """Ends what still runs."""
        for completion in self.completions:
            if not completion.is_finished:
                completion.end("abort")
        self._num_running = 0

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

    def _metrics(self) -> RequestMetrics:
        return RequestMetrics(
            arrival_time=self._arrival_time,
            first_scheduled_time=self._first_scheduled_time,
            first_token_time=self._first_token_time,
            last_token_time=self._last_token_time,
            finished_time=time.time() if self.is_finished else None,
            num_generation_tokens=sum(len(completion.token_ids) for completion in self.completions),
        )
