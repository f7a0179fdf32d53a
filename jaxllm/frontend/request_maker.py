"""From checked requests to the objects that follow them, and to what the engine gets."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxllm.engine.request import EngineRequest
from jaxllm.frontend.beam_search import PreparedBeamSearch, RunningBeamSearch, make_search_request
from jaxllm.frontend.completion import Completion
from jaxllm.frontend.completion_text import CompletionText
from jaxllm.frontend.prompts import TokenizedPrompt
from jaxllm.frontend.running_request import Outbox, RunningRequest
from jaxllm.frontend.token_logprobs import TokenTexts
from jaxllm.sampling_params import SamplingParams

if TYPE_CHECKING:
    from jaxllm.build import BuiltEngine


@dataclass(frozen=True, kw_only=True)
class PreparedRequest:
    """A request that passed every check."""

    prompt: TokenizedPrompt
    params: SamplingParams
    """With max_tokens resolved."""
    bad_word_ids: tuple[tuple[int, ...], ...]
    priority: int


Prepared = PreparedRequest | PreparedBeamSearch
Running = RunningRequest | RunningBeamSearch


class RequestMaker:
    """Names the requests of one engine, seeds them, and takes them apart into sequences."""

    def __init__(self, built: BuiltEngine) -> None:
        self._tokenizer = built.tokenizer
        self._eos_token_ids = built.model_config.eos_token_ids
        self._stream_interval = built.config.stream_interval
        self._keeps_metrics = not built.config.disable_log_stats
        self._token_texts = TokenTexts(built.tokenizer)
        self._seeds = np.random.default_rng(built.config.seed)
        self._request_numbers = itertools.count()

    def make(
        self, prepared: Prepared, outbox: Outbox, request_id: str | None
    ) -> tuple[Running, list[tuple[Any, EngineRequest]]]:
        """The request, and what the engine will know of it; each part with the object that follows it."""
        # Callers name requests as they like; the engine's names are our own, so that "7-1" can't mean two things.
        engine_id = str(next(self._request_numbers))
        request_id = engine_id if request_id is None else request_id
        if isinstance(prepared, PreparedBeamSearch):
            search = self._make_running_search(prepared, outbox, request_id, engine_id)
            engine_request = make_search_request(prepared, engine_id, self._eos_token_ids)
            return search, [(search, engine_request)]
        request = self._make_running(prepared, outbox, request_id, engine_id)
        return request, [
            (completion, self._make_engine_request(prepared, sequence_id, completion.index))
            for completion, sequence_id in zip(request.completions, request.sequence_ids, strict=True)
        ]

    def _make_running_search(
        self, prepared: PreparedBeamSearch, outbox: Outbox, request_id: str, engine_id: str
    ) -> RunningBeamSearch:
        return RunningBeamSearch(
            prepared,
            request_id=request_id,
            engine_id=engine_id,
            tokenizer=self._tokenizer,
            token_texts=self._token_texts,
            outbox=outbox,
            keeps_metrics=self._keeps_metrics,
        )

    def _make_running(
        self, prepared: PreparedRequest, outbox: Outbox, request_id: str, engine_id: str
    ) -> RunningRequest:
        params = prepared.params
        completions = [
            Completion(
                index=index,
                params=params,
                text=CompletionText(self._tokenizer, params, prompt_token_ids=prepared.prompt.token_ids),
                token_texts=self._token_texts,
            )
            for index in range(params.n)
        ]
        return RunningRequest(
            request_id=request_id,
            engine_id=engine_id,
            prompt=prepared.prompt,
            params=params,
            completions=completions,
            token_texts=self._token_texts,
            outbox=outbox,
            stream_interval=self._stream_interval,
            keeps_metrics=self._keeps_metrics,
        )

    def _make_engine_request(self, prepared: PreparedRequest, sequence_id: str, index: int) -> EngineRequest:
        params = prepared.params
        if index > 0 and params.prompt_logprobs is not None:
            params = params.clone(prompt_logprobs=None)  # the first sequence's are enough
        return EngineRequest(
            request_id=sequence_id,
            prompt_token_ids=prepared.prompt.token_ids,
            sampling_params=params,
            eos_token_ids=() if params.ignore_eos else self._eos_token_ids,
            seed=self._seed(params.seed, index),
            priority=prepared.priority,
            cache_salt=prepared.prompt.cache_salt,
            bad_word_ids=prepared.bad_word_ids,
        )

    def _seed(self, seed: int | None, index: int) -> int:
        """The first completion draws with the given seed itself, so that n=1 and n=2 agree on it."""
        if seed is None:
            return int(self._seeds.integers(0, 2**64, dtype=np.uint64))
        if index == 0:
            return seed % 2**64
        return int(np.random.SeedSequence([seed % 2**64, index]).generate_state(1, np.uint64)[0])
