"""A request as the caller hands it in, and as the scheduler keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxllm.engine.beam_search import BeamSearch
from jaxllm.engine.prefix_cache import root_hash
from jaxllm.steps import BeamSettings

if TYPE_CHECKING:
    from jaxllm.sampling_params import SamplingParams

FinishReason = Literal["stop", "length", "abort", "error"]

_SPARE_TOKENS = 64
_SPARE_PAGES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRequest:
    """One sequence to generate; a caller that wants n of them adds n requests."""

    request_id: str
    """Unique among unfinished requests."""
    prompt_token_ids: Sequence[int] | np.ndarray
    """At least one, fewer than max_model_len."""
    sampling_params: SamplingParams
    """Validated, with max_tokens resolved to an int."""
    eos_token_ids: tuple[int, ...] = ()
    """Ids that end the request unless sampling_params.ignore_eos."""
    seed: int
    """64-bit seed of this request's draws."""
    priority: int = 0
    """Lower runs first; heeded by the "priority" policy only."""
    cache_salt: str | None = None
    """Only requests with the same salt share pages."""
    arrival_time: float = 0.0
    """Seconds on any clock; breaks ties of priority."""
    bad_word_ids: tuple[tuple[int, ...], ...] = ()
    """Tokenised bad words."""
    beam: BeamSettings | None = None
    """Makes this a beam search. Of `sampling_params` it heeds max_tokens, ignore_eos, allowed_token_ids and
    skip_reading_prefix_cache; the others must be at rest, with temperature 0."""


class RequestStatus(Enum):
    """Where a request is; only RUNNING ones hold a slot and pages."""

    WAITING = auto()
    RUNNING = auto()
    PREEMPTED = auto()
    FINISHED = auto()


class Request:
    """A sequence and how far it has come.

    Its tokens, and the counters that tell about them (here after two steps whose results were not read yet):

        | prompt ............ | outputs ........ | drawn, unread |
        | <---------- num_tokens --------------> | <- num_unread |
        | <---------- num_computed_tokens (dispatched) ------> |   one drawn token is still to be computed

    "Computed" means that a step which computes it was dispatched: steps run in that order, so later ones may rely
    on it.

    A beam search is such a sequence until its prompt is computed. From then on what its beams generate is in `search`,
    these counters stand still, and `page_ids` are the full pages of the prompt, which all beams share; `num_unread` is
    1 while a step is in flight that chooses beams.
    """

    __slots__ = (
        "_page_buffer",
        "_token_buffer",
        "admission_time",
        "bad_word_ids",
        "cache_root",
        "eos_token_ids",
        "extra_slots",
        "finish_reason",
        "host_page_ids",
        "max_total_tokens",
        "min_total_tokens",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_preemptions",
        "num_prompt_logprobs",
        "num_prompt_tokens",
        "num_recent_tokens",
        "num_registered_pages",
        "num_saved_tokens",
        "num_tokens",
        "num_unread",
        "order",
        "page_hashes",
        "page_ids",
        "request_id",
        "sampling_params",
        "search",
        "seed",
        "slot",
        "status",
        "stop_reason",
        "stop_token_ids",
        "waits_for_tokens",
        "wants_logprobs",
    )

    def __init__(
        self, source: EngineRequest, *, prompt_token_ids: np.ndarray, max_model_len: int, order: tuple[float, ...]
    ) -> None:
        params = source.sampling_params
        assert params.max_tokens is not None, f"max_tokens of request {source.request_id} was not resolved to an int"
        self.request_id = source.request_id
        self.sampling_params = params
        self.wants_logprobs = params.logprobs is not None
        self.seed = source.seed
        self.bad_word_ids = source.bad_word_ids
        self.num_recent_tokens = max(map(len, source.bad_word_ids), default=1) - 1
        self.eos_token_ids = frozenset() if params.ignore_eos else frozenset(source.eos_token_ids)
        self.stop_token_ids = frozenset(params.stop_token_ids or ())
        self.search = None if source.beam is None else BeamSearch(source.beam, self.eos_token_ids)
        self.waits_for_tokens = self.num_recent_tokens > 0 or self.search is not None
        self.order = order
        self.status = RequestStatus.WAITING
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | None = None

        self.num_prompt_tokens = len(prompt_token_ids)
        self.num_tokens = self.num_prompt_tokens
        self.max_total_tokens = min(self.num_prompt_tokens + params.max_tokens, max_model_len)  # prompt and outputs
        self.min_total_tokens = self.num_prompt_tokens + params.min_tokens
        self._token_buffer = np.zeros(min(self.num_tokens + _SPARE_TOKENS, self.max_total_tokens), np.int32)
        self._token_buffer[: self.num_tokens] = prompt_token_ids
        self.num_computed_tokens = 0
        self.num_unread = 0
        self.num_cached_tokens = 0
        self.num_prompt_logprobs = 0
        self.num_preemptions = 0
        self.admission_time = 0.0  # of time.monotonic(); 0 before the first admission

        self.slot: int | None = None
        self.extra_slots: list[int] = []
        self.cache_root = root_hash(source.cache_salt)
        self.page_hashes: list[bytes] = []
        self.num_registered_pages = 0
        self.host_page_ids: list[int] = []  # hold the first num_saved_tokens tokens of a preempted request
        self.num_saved_tokens = 0
        self._page_buffer = np.zeros(0, np.int32)
        self.page_ids = self._page_buffer

    @property
    def is_finished(self) -> bool:
        return self.status is RequestStatus.FINISHED

    @property
    def token_ids(self) -> np.ndarray:
        """int32 [num_tokens], prompt and outputs; a view that later tokens don't change."""
        return self._token_buffer[: self.num_tokens]

    @property
    def num_output_tokens(self) -> int:
        """Generated tokens that were read."""
        return self.num_tokens - self.num_prompt_tokens

    @property
    def num_slots(self) -> int:
        """Slots that it takes while it runs: as many as it may have rows in a step."""
        return 1 if self.search is None else self.search.settings.width

    @property
    def num_pending_tokens(self) -> int:
        """Tokens that exist, on the host or unread on the device, and wait to be computed."""
        return self.num_tokens + self.num_unread - self.num_computed_tokens

    @property
    def can_decode(self) -> bool:
        """Whether exactly one token is pending and may be computed now.

        Not when the last allowed token is drawn or in flight, nor while the host must read tokens that the next
        draw depends on (bad words of several tokens, beams).
        """
        num_drawn = self.num_tokens + self.num_unread
        return (
            num_drawn - self.num_computed_tokens == 1
            and num_drawn < self.max_total_tokens
            and (self.num_unread == 0 or not self.waits_for_tokens)
        )

    @property
    def can_search(self) -> bool:
        """Whether there are beams whose last token may be computed now."""
        return self.search is not None and self.num_unread == 0 and len(self.search.beams) > 0

    @property
    def reads_prefix_cache(self) -> bool:
        """False when every prompt position must be computed."""
        return self.sampling_params.prompt_logprobs is None and not self.sampling_params.skip_reading_prefix_cache

    def end_after(self, token_id: int) -> tuple[FinishReason, int | None] | None:
        """Why the sequence ends with the token just added, and with which stop token; None when it goes on."""
        if self.num_tokens >= self.min_total_tokens:
            if token_id in self.eos_token_ids:
                return "stop", None
            if token_id in self.stop_token_ids:
                return "stop", token_id
        return ("length", None) if self.num_tokens >= self.max_total_tokens else None

    def append_token(self, token_id: int) -> None:
        """Adds a token that was read."""
        if self.num_tokens == len(self._token_buffer):
            self._token_buffer = np.concatenate([self._token_buffer, np.zeros_like(self._token_buffer)])
        self._token_buffer[self.num_tokens] = token_id
        self.num_tokens += 1

    def set_pages(self, page_ids: Sequence[int]) -> None:
        """Replaces the page table; arrays given out before keep their content."""
        self._page_buffer = np.zeros(len(page_ids) + _SPARE_PAGES, np.int32)
        self._page_buffer[: len(page_ids)] = page_ids
        self.page_ids = self._page_buffer[: len(page_ids)]
        self.num_registered_pages = 0

    def keep_pages(self, count: int) -> None:
        """Cuts the page table down to its first `count` pages."""
        self.page_ids = self.page_ids[:count]

    def append_page(self, page_id: int) -> None:
        """Adds a page behind the last; arrays given out before keep their content."""
        num_pages = len(self.page_ids)
        if num_pages == len(self._page_buffer):
            self._page_buffer = np.concatenate([self._page_buffer, np.zeros(num_pages + _SPARE_PAGES, np.int32)])
        self._page_buffer[num_pages] = page_id
        self.page_ids = self._page_buffer[: num_pages + 1]
