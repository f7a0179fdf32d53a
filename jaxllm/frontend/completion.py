"""One completion while it is generated: tokens, text, log-probabilities, and why it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxllm.frontend.token_logprobs import TokenTexts, to_position_logprobs
from jaxllm.outputs import CompletionOutput, FinishReason, PositionLogprobs
from jaxllm.sampling_params import SamplingParams

if TYPE_CHECKING:
    from jaxllm.engine.output import EngineOutput
    from jaxllm.frontend.completion_text import CompletionText


class Completion:
    """Collects the engine's news about one sequence, and says what a caller may see of it."""

    def __init__(self, *, index: int, params: SamplingParams, text: CompletionText, token_texts: TokenTexts) -> None:
        self.index = index
        self._params = params
        self._text = text
        self._token_texts = token_texts
        self.token_ids: list[int] = []
        self._logprobs: list[PositionLogprobs] | None = None if params.logprobs is None else []
        self._cumulative_logprob: float | None = None if params.logprobs is None else 0.0
        self.finish_reason: FinishReason | None = None
        self.last_token_time: float | None = None
        """Of `time.monotonic()`."""
        self.num_preemptions = 0
        """How often the engine took its pages away."""
        self._stop_reason: int | str | None = None
        self._num_tokens_shown = 0
        self._num_characters_shown = 0
        self._was_shown_finished = False

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will come."""
        return self.finish_reason is not None

    def update(self, news: EngineOutput) -> bool:
        """Takes in new tokens; True when a stop string ended the completion and the engine must be told."""
        is_stop_token = news.finish_reason == "stop"
        num_taken = self._text.append(
            news.new_token_ids, num_before=len(self.token_ids), ends_with_stop_token=is_stop_token
        )
        self.token_ids.extend(news.new_token_ids[:num_taken])
        if self._logprobs is not None and self._cumulative_logprob is not None:
            for entry in news.new_logprobs[:num_taken]:
                self._logprobs.append(to_position_logprobs(entry, self._params.logprobs, self._token_texts))
                self._cumulative_logprob += entry.logprob
        if self._text.stop_string is not None:
            self.end("stop", self._text.stop_string)
            return news.finish_reason is None
        if news.finish_reason is not None:
            self.end(news.finish_reason, news.stop_reason)
        return False

    def end(self, reason: FinishReason, stop_reason: int | str | None = None) -> None:
        """Nothing comes any more; held-back text becomes visible."""
        self._text.finish()
        self.finish_reason = reason
        self._stop_reason = stop_reason

    def is_due(self, interval: int) -> bool:
        """Whether a streamed output should show it: first tokens and the end at once, others by the interval."""
        if self.is_finished:
            return not self._was_shown_finished
        num_new = len(self.token_ids) - self._num_tokens_shown
        return num_new > 0 and (self._num_tokens_shown == 0 or num_new >= interval)

    def show(self, *, delta: bool) -> CompletionOutput:
        """The output so far, or what came since the last one."""
        first_token = self._num_tokens_shown if delta else 0
        first_character = self._num_characters_shown if delta else 0
        text = self._text.visible
        self._num_tokens_shown, self._num_characters_shown = len(self.token_ids), len(text)
        self._was_shown_finished = self.is_finished
        return CompletionOutput(
            index=self.index,
            text=text[first_character:],
            token_ids=self.token_ids[first_token:],
            cumulative_logprob=self._cumulative_logprob,
            logprobs=None if self._logprobs is None else self._logprobs[first_token:],
            finish_reason=self.finish_reason,
            stop_reason=self._stop_reason,
        )
