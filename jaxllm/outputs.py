"""What the user gets back: one RequestOutput per prompt, with one CompletionOutput per completion.

A beam search gives a BeamSearchOutput with one BeamSearchSequence per beam instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(slots=True)  # not frozen, which takes three times as long to make, and there are thousands
class Logprob:
    """Log-probability of one token at one position."""

    logprob: float
    """Natural logarithm of the probability (or the logit, with a logits `logprobs_mode`)."""
    rank: int | None = None
    """Place in the whole vocabulary; the most likely token has rank 1."""
    decoded_token: str | None = None
    """The token's own text; None without detokenisation."""


PositionLogprobs = dict[int, Logprob]
"""One position's log-probabilities by token id: the drawn (or prompt's) token first, then the most likely ones."""


@dataclass(frozen=True, kw_only=True)
class RequestMetrics:
    """When things happened to one request, in seconds of `time.time()`, exact to each other, and how much was done."""

    arrival_time: float
    """When the request was added."""
    first_scheduled_time: float | None = None
    """When it first got pages and a place in a step; None before the first news of it."""
    first_token_time: float | None = None
    """When its first token came."""
    last_token_time: float | None = None
    """When its newest token came."""
    finished_time: float | None = None
    """When its last completion ended."""
    num_generation_tokens: int = 0
    """Tokens generated so far, over all completions."""

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from arrival to the first token."""
        return None if self.first_token_time is None else self.first_token_time - self.arrival_time


@dataclass(frozen=True, kw_only=True)
class CompletionOutput:
    """One completion of a prompt."""

    index: int
    """Which of the request's n completions this is, from 0."""
    text: str
    """The generated text (streaming DELTA: only what is new)."""
    token_ids: list[int]
    """The generated tokens, EOS or stop token included (streaming DELTA: only the new ones)."""
    cumulative_logprob: float | None = None
    """Sum of the drawn tokens' log-probabilities; None unless logprobs were asked for."""
    logprobs: list[PositionLogprobs] | None = None
    """One entry per token in `token_ids`; None unless asked for."""
    finish_reason: FinishReason | None = None
    """Why the completion ended; None while it runs."""
    stop_reason: int | str | None = None
    """The stop token or stop string that ended it; None for EOS and for every other end."""
    lora_request: None = None
    """Adapters are not supported yet."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will come."""
        return self.finish_reason is not None

    def finished(self) -> bool:
        """The same as `is_finished`, under vLLM's name."""
        return self.is_finished


@dataclass(frozen=True, kw_only=True)
class RequestOutput:
    """A prompt and what was generated for it so far."""

    request_id: str
    """Decimal number of the request."""
    prompt: str | None
    """The prompt's text, for a chat the rendered template; None when only token ids were given."""
    prompt_token_ids: list[int]
    """The prompt as the model saw it."""
    outputs: list[CompletionOutput]
    """The completions, ordered by index."""
    finished: bool
    """Whether all completions have ended."""
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    """One entry per prompt token, None for the first; None unless asked for."""
    metrics: RequestMetrics | None = None
    """Timings; None when the engine runs with disable_log_stats."""
    num_cached_tokens: int | None = None
    """Prompt tokens whose keys and values came from the prefix cache; None before the first step."""
    lora_request: None = None
    """Adapters are not supported yet."""
    encoder_prompt: None = field(default=None, repr=False)
    """Encoder-decoder models are not supported yet."""
    encoder_prompt_token_ids: None = field(default=None, repr=False)
    """Encoder-decoder models are not supported yet."""


@dataclass(frozen=True, kw_only=True)
class BeamSearchSequence:
    """One result of a beam search."""

    orig_prompt: Mapping[str, Any]
    """The prompt: "prompt_token_ids", and "prompt" where its text is known."""
    tokens: list[int]
    """Prompt and generated tokens, EOS included."""
    logprobs: list[PositionLogprobs]
    """One entry per generated token: the up to 2 * beam_width tokens that the beam considered there, likeliest first.
    Results with a common beginning share entries."""
    cum_logprob: float
    """Sum of the generated tokens' log-probabilities."""
    text: str
    """Prompt and generated text; "" without a tokenizer."""
    finish_reason: FinishReason | None = None
    """"abort" or "error" if the search was broken off, else None; `completion` tells EOS from the length limit."""
    stop_reason: None = None
    """EOS gives no stop_reason, and nothing else stops a beam."""
    lora_request: None = None
    """Adapters are not supported yet."""
    completion: CompletionOutput
    """The generated part alone, as `generate` gives it."""


@dataclass(frozen=True, kw_only=True)
class BeamSearchOutput:
    """A prompt and the results of its beam search."""

    request_id: str
    """Decimal number of the request."""
    prompt: str | None
    """The prompt's text; None when only token ids were given."""
    prompt_token_ids: list[int]
    """The prompt as the model saw it."""
    sequences: list[BeamSearchSequence]
    """The best first, at most beam_width of them."""
    finished: bool = True
    """There are no outputs on the way."""
    metrics: RequestMetrics | None = None
    """Timings; None when the engine runs with disable_log_stats."""
    num_cached_tokens: int | None = None
    """Prompt tokens whose keys and values came from the prefix cache; None if it never ran."""


def as_request_output(output: RequestOutput | BeamSearchOutput) -> RequestOutput:
    """The output in the form of `generate`; the results of a beam search become completions, best first."""
    if isinstance(output, RequestOutput):
        return output
    return RequestOutput(
        request_id=output.request_id,
        prompt=output.prompt,
        prompt_token_ids=output.prompt_token_ids,
        outputs=[sequence.completion for sequence in output.sequences],
        finished=output.finished,
        metrics=output.metrics,
        num_cached_tokens=output.num_cached_tokens,
    )
