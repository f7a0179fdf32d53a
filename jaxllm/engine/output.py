"""What the engine says about a request after a step."""

from __future__ import annotations

from typing import NamedTuple

from jaxllm.engine.beam_search import FinishedBeam
from jaxllm.engine.request import FinishReason
from jaxllm.steps import TokenLogprobs


class EngineOutput(NamedTuple):
    """The news about one request since its last output.

    A NamedTuple because a step makes hundreds: a frozen dataclass takes three times as long to make.
    """

    request_id: str
    new_token_ids: tuple[int, ...]
    """The stop or EOS token that ended the request included."""
    new_logprobs: tuple[TokenLogprobs, ...] = ()
    """One entry per new token when the request asked for logprobs."""
    new_prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    """Entries for the next prompt tokens; the first prompt token never gets one."""
    finish_reason: FinishReason | None = None
    """None while the request goes on."""
    stop_reason: int | None = None
    """The stop_token_ids entry that ended the request; None for EOS and everything else."""
    num_cached_tokens: int = 0
    """Prompt tokens that the prefix cache had when the request was first admitted."""
    admission_time: float = 0.0
    """When the request was first admitted, of `time.monotonic()`."""
    num_preemptions: int = 0
    """How often it lost its pages so far."""
    beams: tuple[FinishedBeam, ...] = ()
    """The results of a beam search, best first, with its finish_reason. Before that it gives one output without
    anything new, when the first token of its beams is there."""
