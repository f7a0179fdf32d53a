"""A user's beam search: from its parameters to the engine's request, and from the engine's beams to an output."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jaxllm.beam_search_params import BeamSearchParams
from jaxllm.engine.request import EngineRequest
from jaxllm.frontend.prompts import TokenizedPrompt
from jaxllm.frontend.request_clock import RequestClock
from jaxllm.frontend.running_request import Outbox
from jaxllm.frontend.statistics import RequestStats
from jaxllm.frontend.token_logprobs import TokenTexts
from jaxllm.outputs import (
    BeamSearchOutput,
    BeamSearchSequence,
    CompletionOutput,
    FinishReason,
    Logprob,
    PositionLogprobs,
    RequestMetrics,
)
from jaxllm.sampling_params import SamplingParams
from jaxllm.steps import BeamSettings
from jaxllm.text.detokenizer import Detokenizer

if TYPE_CHECKING:
    from jaxllm.engine.beam_search import BeamCandidates, FinishedBeam
    from jaxllm.engine.output import EngineOutput
    from jaxllm.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class PreparedBeamSearch:
    """A beam search that passed every check."""

    prompt: TokenizedPrompt
    params: BeamSearchParams
    priority: int


def beam_settings(params: BeamSearchParams) -> BeamSettings:
    """The part of the parameters that the engine needs throughout."""
    return BeamSettings(
        width=params.beam_width, temperature=params.logits_divisor, length_penalty=params.length_penalty
    )


def make_search_request(prepared: PreparedBeamSearch, request_id: str, eos_token_ids: tuple[int, ...]) -> EngineRequest:
    """The engine's view of a beam search."""
    params = prepared.params
    return EngineRequest(
        request_id=request_id,
        prompt_token_ids=prepared.prompt.token_ids,
        sampling_params=SamplingParams(
            temperature=0.0,
            max_tokens=params.max_tokens,
            ignore_eos=params.ignore_eos,
            allowed_token_ids=params.allowed_token_ids,
            detokenize=False,
        ),
        eos_token_ids=() if params.ignore_eos else eos_token_ids,
        seed=0,
        priority=prepared.priority,
        cache_salt=prepared.prompt.cache_salt,
        beam=beam_settings(params),
    )


_BROKEN_OFF = ("abort", "error")


class RunningBeamSearch:
    """Waits for a search's results and puts the one output into the caller's `outbox`."""

    def __init__(
        self,
        prepared: PreparedBeamSearch,
        *,
        request_id: str,
        engine_id: str,
        tokenizer: Tokenizer | None,
        token_texts: TokenTexts,
        outbox: Outbox,
        keeps_metrics: bool,
    ) -> None:
        self.request_id = request_id
        self.sequence_ids = [engine_id]
        """The engine's name of the search."""
        self.is_finished = False
        self._prompt = prepared.prompt
        self._params = prepared.params
        self._tokenizer = tokenizer
        self._token_texts = token_texts
        self._outbox = outbox
        self._keeps_metrics = keeps_metrics
        self._sequences: list[BeamSearchSequence] = []
        self._num_cached_tokens: int | None = None
        self._num_preemptions = 0
        self._clock = RequestClock()
        self._first_scheduled_time: float | None = None
        self._first_token_time: float | None = None
        self._finished_time: float | None = None

    @property
    def arrival_time(self) -> float:
        """Of `time.monotonic()`."""
        return self._clock.arrival_time

    @property
    def has_no_token(self) -> bool:
        """Whether its beams have no token yet."""
        return self._first_token_time is None

    def update(self, completion: RunningBeamSearch, news: EngineOutput, now: float) -> bool:
        """Takes in the results when they come, at `now`; False, as only the engine ends a search."""
        assert completion is self, "a beam search is its only completion"
        if self._first_token_time is None:
            self._first_token_time = now
            self._first_scheduled_time = news.admission_time
            self._num_cached_tokens = news.num_cached_tokens
        self._num_preemptions = news.num_preemptions
        if news.finish_reason is not None:
            positions = self._position_logprobs(news.beams)
            self._sequences = [self._make_sequence(index, beam, positions) for index, beam in enumerate(news.beams)]
            self._finish(now)
        return False

    def end(self, reason: FinishReason) -> None:
        """Ends the search with the bare prompt as its result, unless it is over."""
        if not self.is_finished:
            completion = CompletionOutput(index=0, text="", token_ids=[], finish_reason=reason)
            text = self._decode(self._prompt.token_ids)
            self._sequences = [self._sequence(completion, [], text)]
            self._finish(time.monotonic())

    def put_output(self) -> None:
        """Puts the output into the outbox if the search is over."""
        if self.is_finished:
            self._outbox.append(
                BeamSearchOutput(
                    request_id=self.request_id,
                    prompt=self._prompt.text,
                    prompt_token_ids=self._prompt.token_ids,
                    sequences=self._sequences,
                    metrics=self._metrics() if self._keeps_metrics else None,
                    num_cached_tokens=self._num_cached_tokens,
                )
            )

    def statistics(self) -> RequestStats:
        """What listeners hear of it once it ended."""
        times = self._metrics()
        reasons = [sequence.completion.finish_reason for sequence in self._sequences]
        assert times.finished_time is not None, f"request {self.request_id} still runs"
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
            num_preemptions=self._num_preemptions,
            n=self._params.beam_width,
            max_tokens=self._params.max_tokens,
            finish_reasons=tuple(reason for reason in reasons if reason is not None),
        )

    def _finish(self, now: float) -> None:
        self.is_finished = True
        self._finished_time = now

    def _make_sequence(
        self, index: int, beam: FinishedBeam, positions: dict[int, PositionLogprobs]
    ) -> BeamSearchSequence:
        logprobs = [positions[id(candidates)] for candidates in beam.candidates]
        token_ids = list(beam.token_ids)
        is_last_hidden = beam.is_stopped and not self._params.include_stop_str_in_output
        readable = token_ids[:-1] if is_last_hidden else token_ids
        completion = CompletionOutput(
            index=index,
            text=self._generated_text(readable),
            token_ids=token_ids,
            cumulative_logprob=beam.cum_logprob,
            logprobs=logprobs,
            finish_reason="stop" if beam.is_stopped else "length",
        )
        return self._sequence(completion, logprobs, self._decode(self._prompt.token_ids + readable))

    def _sequence(
        self, completion: CompletionOutput, logprobs: list[PositionLogprobs], text: str
    ) -> BeamSearchSequence:
        prompt = {"prompt_token_ids": self._prompt.token_ids}
        return BeamSearchSequence(
            orig_prompt=prompt if self._prompt.text is None else {"prompt": self._prompt.text, **prompt},
            tokens=self._prompt.token_ids + completion.token_ids,
            logprobs=logprobs,
            cum_logprob=completion.cumulative_logprob or 0.0,
            text=text,
            finish_reason=completion.finish_reason if completion.finish_reason in _BROKEN_OFF else None,
            completion=completion,
        )

    def _position_logprobs(self, beams: Sequence[FinishedBeam]) -> dict[int, PositionLogprobs]:
        """By the identity of the candidates, which beams with a common beginning share."""
        found: dict[int, BeamCandidates] = {id(one): one for beam in beams for one in beam.candidates}
        # One conversion for all of them: there are thousands.
        columns = [np.array(column).tolist() for column in zip(*found.values(), strict=True)]
        texts = self._token_texts
        return {
            key: {
                token_id: Logprob(logprob, rank, texts[token_id])
                for token_id, logprob, rank in zip(*position, strict=True)
                if logprob > -math.inf
            }
            for key, position in zip(found, zip(*columns, strict=True), strict=True)
        }

    def _generated_text(self, token_ids: Sequence[int]) -> str:
        if self._tokenizer is None:
            return ""
        detokenizer = Detokenizer(
            self._tokenizer, self._prompt.token_ids, skip_special_tokens=self._params.skip_special_tokens
        )
        detokenizer.append(token_ids)
        detokenizer.flush()
        return detokenizer.text

    def _decode(self, token_ids: Sequence[int]) -> str:
        if self._tokenizer is None:
            return ""
        return self._tokenizer.decode(token_ids, skip_special_tokens=self._params.skip_special_tokens)

    def _metrics(self) -> RequestMetrics:
        num_tokens = sum(len(sequence.completion.token_ids) for sequence in self._sequences)
        return RequestMetrics(
            arrival_time=self._clock.arrival_wall_time,
            first_scheduled_time=self._clock.wall_time(self._first_scheduled_time),
            first_token_time=self._clock.wall_time(self._first_token_time),
            last_token_time=self._clock.wall_time(self._finished_time) if num_tokens else None,
            finished_time=self._clock.wall_time(self._finished_time),
            num_generation_tokens=num_tokens,
        )
