"""The only two messages between host and device: a step to run, and what came of it.

The engine builds a `ScheduledStep`, the runner turns it into arrays and dispatches one program, and
later hands back a `StepResult`. Neither holds a device array, and this module imports no jax.

The live beams of a beam search are neighbouring rows of one step, best first, with the request's id and slot in each.
The last chunk of its prompt is a search's first row.

Dimension words used below: `tokens` is the flat token axis of one step, `requests` the rows of one step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from jaxllm.sampling_params import SamplingParams

NO_PAGE = 0
"""Page 0 is never given to a request: padding rows and unused page table entries point at it."""


MAX_BEAM_END_IDS = 8
"""Tokens that may end the beams of a search."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BeamSettings:
    """What stays the same throughout a beam search."""

    width: int
    """Beams that live on after each token, >= 1."""
    temperature: float = 1.0
    """Divides the logits, > 0."""
    length_penalty: float = 1.0
    """Finished beams compare by cumulative log-probability / generated tokens ** length_penalty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotStart:
    """What the device must know once, when a request takes (or, after preemption, retakes) a slot."""

    slot: int
    """Row of the device-resident state, 0 <= slot < max_num_seqs."""
    sampling_params: SamplingParams
    """The request's parameters, already validated and with defaults resolved."""
    seed: int
    """64-bit seed of the request's draws; draw i uses fold_in(key(seed), position of the drawn token)."""
    prompt_token_ids: np.ndarray
    """int32 [prompt_len], needed by repetition penalty."""
    output_token_ids: np.ndarray
    """int32 [outputs], tokens generated before a preemption; empty for a fresh request."""
    stop_token_ids: tuple[int, ...]
    """All ids that end this request (EOS ids and stop_token_ids): banned while below min_tokens."""
    beam: BeamSettings | None = None
    """Given for beam searches, whose beams end with `stop_token_ids`."""
    bad_word_ids: tuple[tuple[int, ...], ...] = ()
    """Tokenised bad words."""


class ScheduledRequest(NamedTuple):
    """One request's share of a step: `num_tokens` tokens from position `num_computed_tokens` on.

    A NamedTuple because a step has hundreds: a frozen dataclass takes three times as long to make.
    """

    request_id: str
    """Engine-internal id, unique among live requests (one per sequence: n=2 gives two)."""
    slot: int
    num_computed_tokens: int
    """Tokens whose KV entries are already in the pages before this step."""
    num_tokens: int
    """Tokens computed in this step, >= 1."""
    token_ids: np.ndarray | None
    """int32 [num_tokens] known on the host (prompt or recomputed tokens); None means one decode token that
    the device holds as the slot's last sampled token."""
    page_ids: np.ndarray
    """int32 [pages], every page of the request in order, enough for num_computed_tokens + num_tokens."""
    samples: bool
    """True when the chunk reaches the last known token, so this step draws the request's next token."""
    num_output_tokens: int
    """Tokens generated before the one this step draws (for min_tokens)."""
    recent_token_ids: np.ndarray | None = None
    """The last known tokens (prompt and output), given only for requests whose bad words need them."""
    prompt_logprob_targets: np.ndarray | None = None
    """int32 [num_tokens], for prompt_logprobs: the token that follows each computed token, NO_TARGET where the
    follower is not a prompt token. None when the request asked for none."""
    beam_score: float | None = None
    """Beams that the step continues: log-probability of what they have generated. None for all other rows."""


NO_TARGET = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduledStep:
    """One step: at most `max_num_batched_tokens` tokens of at most `max_num_seqs` requests."""

    step_id: int
    requests: tuple[ScheduledRequest, ...]
    """Decode requests (one token, token_ids None or of length 1) come first, longer chunks after them."""
    starts: tuple[SlotStart, ...] = ()
    """Slots that are (re)taken by this step's requests."""
    num_beam_places: int = 0
    """Beams that the step's searches may choose: the sum of their widths, <= max_num_seqs."""
    page_saves: tuple[tuple[int, int], ...] = ()
    """(page, host page) to copy before all else; no host page comes twice."""
    page_loads: tuple[tuple[int, int], ...] = ()
    """(host page, page) to copy after that, before the step; no page comes twice."""
    page_copies: tuple[tuple[int, int], ...] = ()
    """(source, destination) pages to copy before the step; at most one a row, and no destination is a source."""

    @property
    def num_tokens(self) -> int:
        return sum(request.num_tokens for request in self.requests)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """Log-probabilities of one position."""

    token_id: int
    logprob: float
    rank: int
    """1-based rank of the token in the whole vocabulary."""
    top_token_ids: np.ndarray
    """int32 [k], most likely first."""
    top_logprobs: np.ndarray
    """float32 [k]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class BeamSelection:
    """What a step chose for one beam search: `beams` <= width of them, best first, from `rows` beams before."""

    parents: np.ndarray
    """int32 [beams], which of the search's rows each beam continues."""
    token_ids: np.ndarray
    """int32 [beams]"""
    scores: np.ndarray
    """float32 [beams], log-probability of what the beam has generated, this token included."""
    candidate_ids: np.ndarray
    """int32 [rows, candidates], the up to 2 * width likeliest tokens of each row that may be drawn, likeliest first.
    Those that end a beam are among them, and never among `token_ids`."""
    candidate_logprobs: np.ndarray
    """float32 [rows, candidates]; -inf where there is no such token."""
    candidate_ranks: np.ndarray
    """int32 [rows, candidates], 1-based rank in the whole vocabulary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What a step drew, by request id."""

    step_id: int
    token_ids: dict[str, int]
    """The drawn token of every request whose `samples` was True, beam searches excepted."""
    logprobs: dict[str, TokenLogprobs] = field(default_factory=dict)
    """For requests with SamplingParams.logprobs."""
    prompt_logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    """For requests with prompt_logprob_targets: one entry per target that is not NO_TARGET, in order."""
    beams: dict[str, BeamSelection] = field(default_factory=dict)
    """For beam searches with rows that have a beam_score."""


class StepHandle(Protocol):
    """A dispatched step."""

    def is_ready(self) -> bool:
        """Whether `result` would return without waiting."""
        ...

    def result(self) -> StepResult:
        """Waits for the device and returns what the step drew."""
        ...


class Runner(Protocol):
    """The device side as the engine sees it. `jaxllm.runner.runner.ModelRunner` is the real one; tests use a fake."""

    num_pages: int
    """Pages in the pool, NO_PAGE included."""
    page_size: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    vocab_size: int

    @property
    def num_host_pages(self) -> int:
        """Host pages, from 0 on, that a step may save pages to. There come more as memory is found for them."""
        ...

    def reserve_host_pages(self) -> None:
        """Starts to find memory for all host pages, where that takes time; a second call does nothing."""
        ...

    def dispatch(self, step: ScheduledStep) -> StepHandle:
        """Starts the step and returns at once; steps run in the order they were dispatched."""
        ...

    def shutdown(self) -> None:
        """Frees device memory; the runner can't be used afterwards."""
        ...
