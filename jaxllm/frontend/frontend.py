"""The loop's user side: prompts become engine requests, the engine's news become request outputs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from jaxllm.beam_search_params import BeamSearchParams
from jaxllm.errors import EngineDeadError, ValidationError
from jaxllm.frontend.beam_search import PreparedBeamSearch, beam_settings
from jaxllm.frontend.generation_defaults import make_default_sampling_params
from jaxllm.frontend.interrupts import holding_interrupts
from jaxllm.frontend.prompts import (
    TokenizedPrompt,
    check_prompt_length,
    check_prompt_vocabulary,
    check_text_length,
)
from jaxllm.frontend.request_maker import Prepared, PreparedRequest, RequestMaker, Running
from jaxllm.frontend.running_request import Outbox
from jaxllm.frontend.statistics import StatsListener
from jaxllm.frontend.statistics_recorder import StatisticsRecorder
from jaxllm.inputs import ParsedPrompt, TokenizationOptions
from jaxllm.outputs import FinishReason
from jaxllm.sampling_params import SamplingParams
from jaxllm.text.bad_words import tokenize_bad_words

if TYPE_CHECKING:
    from jaxllm.build import BuiltEngine
    from jaxllm.engine.output import EngineOutput


class Frontend:
    """Adds, follows and aborts the requests of one engine; several threads may share it."""

    def __init__(self, built: BuiltEngine) -> None:
        self._engine = built.engine
        self.tokenizer = built.tokenizer
        self._model_config = built.model_config
        self._config = built.config
        self.default_sampling_params = make_default_sampling_params(built.generation_config, built.config)
        """What callers who give none get."""
        self._maker = RequestMaker(built)
        self._recorder = StatisticsRecorder(built.engine, built.num_compiles)
        self._running: dict[str, Running] = {}
        self._sequences: dict[str, tuple[Running, Any]] = {}
        self._last_bad_words: tuple[tuple[str, ...], tuple[tuple[int, ...], ...]] = ((), ())
        self._lock = threading.RLock()

    def check_text(
        self,
        parsed: ParsedPrompt,
        params: SamplingParams | BeamSearchParams,
        options: TokenizationOptions,
        *,
        name: str,
    ) -> None:
        """Refuses a prompt that is too long to be worth tokenising, unless it is to be cut."""
        if self.tokenizer is None or parsed.token_ids is not None or parsed.text is None:
            return
        keep = params.truncate_prompt_tokens if isinstance(params, SamplingParams) else None
        if not options.cuts and keep is None:
            check_text_length(name, parsed.text, self.tokenizer, self._model_config.max_model_len)

    def prepare(
        self,
        parsed: ParsedPrompt,
        token_ids: list[int],
        params: SamplingParams,
        priority: int,
        options: TokenizationOptions,
        *,
        name: str,
    ) -> PreparedRequest:
        """Cuts the prompt as asked and checks the request against model and engine; nothing is added yet."""
        keep = params.truncate_prompt_tokens
        prompt = self._prepare_prompt(parsed, token_ids, params.max_tokens or 1, keep, options, name)
        self._check_priority(priority)
        bad_word_ids = self._bad_word_ids(params)
        self._verify(params, len(bad_word_ids))
        if params.max_tokens is None:
            room = self._model_config.max_model_len - len(prompt.token_ids)
            params = params.clone(max_tokens=room, min_tokens=min(params.min_tokens, room))
        return PreparedRequest(prompt=prompt, params=params, bad_word_ids=bad_word_ids, priority=priority)

    def prepare_beam_search(
        self,
        parsed: ParsedPrompt,
        token_ids: list[int],
        params: BeamSearchParams,
        priority: int,
        options: TokenizationOptions,
        *,
        name: str,
    ) -> PreparedBeamSearch:
        """The same for a beam search."""
        prompt = self._prepare_prompt(parsed, token_ids, params.max_tokens, None, options, name)
        self._check_priority(priority)
        params.verify(vocab_size=self._model_config.vocab_size, max_logprobs=self._config.max_logprobs)
        self._engine.check_search(
            beam_settings(params),
            num_prompt_tokens=len(prompt.token_ids),
            max_tokens=params.max_tokens,
            num_end_ids=0 if params.ignore_eos else len(self._model_config.eos_token_ids),
        )
        return PreparedBeamSearch(prompt=prompt, params=params, priority=priority)

    @property
    def listeners(self) -> list[StatsListener]:
        """Who hears of steps and finished requests."""
        return self._recorder.listeners

    @property
    def has_running(self) -> bool:
        """Whether `step` should be called again."""
        return bool(self._running)

    def add(self, prepared: Prepared, outbox: Outbox, request_id: str | None = None) -> Running:
        """Hands a request to the engine; its outputs come into `outbox` while anyone calls `step`.

        Without a `request_id` it gets the next number.
        """
        with self._lock:
            if request_id in self._running:
                raise ValidationError(
                    f"request_id {request_id!r} belongs to a running request already", parameter="request_id"
                )
            request, sequences = self._maker.make(prepared, outbox, request_id)
            self._running[request.request_id] = request
            try:
                for completion, engine_request in sequences:
                    self._sequences[engine_request.request_id] = (request, completion)
                    self._engine.add_request(engine_request)
            except BaseException:
                self._forget(request)
                raise
            return request

    def step(self) -> None:
        """Runs one engine step and hands out what it brought, whoever asked for it."""
        with self._lock, holding_interrupts():
            self._recorder.start_step()
            try:
                news = self._engine.step()
            except EngineDeadError:
                self._end_all("error")
                raise
            started = time.monotonic()
            self._hand_out(news, started)
            self._recorder.finish_step(time.monotonic() - started)
            is_stuck = self._running and not self._engine.has_unfinished_requests()
            assert not is_stuck, f"the engine forgot requests {list(self._running)}"

    def abort(self, request_ids: Iterable[str]) -> None:
        """Ends requests; each gives a last output with finish_reason "abort". Unknown ids are ignored."""
        with self._lock:
            requests = [self._running[request_id] for request_id in request_ids if request_id in self._running]
            self.drop(requests)
            for request in requests:
                request.put_output()

    def drop(self, requests: Iterable[Running]) -> None:
        """Ends requests whose caller is gone; finished ones are ignored."""
        with self._lock:
            for request in requests:
                if self._forget(request):
                    request.end("abort")
                    self._recorder.finish_request(request)

    def reset_prefix_cache(self, reset_running_requests: bool) -> bool:
        """Forgets all cached prompts; False, and nothing done, while requests run that may keep their pages."""
        with self._lock:
            if reset_running_requests:
                self._engine.preempt_all()
            return self._engine.reset_prefix_cache()

    def shutdown(self) -> None:
        """Drops all requests and frees the device; a second call does nothing."""
        with self._lock:
            self._end_all("abort")
            self._engine.shutdown()

    def _hand_out(self, news: Iterable[EngineOutput], now: float) -> None:
        touched: dict[str, Running] = {}
        is_listened_to = bool(self.listeners)
        for one in news:
            # A sequence ended by a stop string may still have had a token on the way.
            if one.request_id in self._sequences:
                request, completion = self._sequences[one.request_id]
                touched[request.request_id] = request
                if is_listened_to and one.new_token_ids:
                    self._recorder.record_token(request, completion, now)
                if request.update(completion, one, now):
                    self._engine.finish(one.request_id)
                if completion.is_finished:
                    del self._sequences[one.request_id]
        for request in touched.values():
            if request.is_finished:
                del self._running[request.request_id]
                self._recorder.finish_request(request)
            request.put_output()

    def _forget(self, request: Running) -> bool:
        """Takes the request out of frontend and engine; False if it was out already."""
        if self._running.pop(request.request_id, None) is None:
            return False
        self._engine.abort(request.sequence_ids)
        for sequence_id in request.sequence_ids:
            self._sequences.pop(sequence_id, None)
        return True

    def _end_all(self, reason: FinishReason) -> None:
        """Ends requests that no engine knows any more."""
        for request in self._running.values():
            request.end(reason)
            self._recorder.finish_request(request)
        self._running.clear()
        self._sequences.clear()

    def _prepare_prompt(
        self,
        parsed: ParsedPrompt,
        token_ids: list[int],
        num_output_tokens: int,
        keep: int | None,
        options: TokenizationOptions,
        name: str,
    ) -> TokenizedPrompt:
        max_model_len = self._model_config.max_model_len
        max_input_tokens = max(max_model_len - num_output_tokens, 1)
        token_ids = options.cut(name, token_ids, keep=keep, max_input_tokens=max_input_tokens)
        check_prompt_length(name, len(token_ids), max_model_len)
        check_prompt_vocabulary(name, token_ids, self._model_config.vocab_size)
        return TokenizedPrompt(text=parsed.text, token_ids=token_ids, cache_salt=parsed.cache_salt)

    def _check_priority(self, priority: int) -> None:
        if priority and self._config.scheduling_policy != "priority":
            raise ValidationError(
                f"priority must be 0 unless scheduling_policy is 'priority', got {priority}", parameter="priority"
            )

    def _verify(self, params: SamplingParams, num_bad_word_ids: int) -> None:
        end_token_ids = set(params.stop_token_ids)
        if not params.ignore_eos:
            end_token_ids.update(self._model_config.eos_token_ids)
        params.verify(
            vocab_size=self._model_config.vocab_size,
            max_logprobs=self._config.max_logprobs,
            num_end_token_ids=len(end_token_ids),
            num_bad_word_ids=num_bad_word_ids,
        )

    def _bad_word_ids(self, params: SamplingParams) -> tuple[tuple[int, ...], ...]:
        if self.tokenizer is None and (params.bad_words or params.stop):
            name = "bad_words" if params.bad_words else "stop"
            raise ValidationError(f"{name} needs a tokenizer: skip_tokenizer_init must be False", parameter=name)
        if self.tokenizer is None or not params.bad_words:
            return ()
        words = tuple(params.bad_words)
        last = self._last_bad_words
        if words != last[0]:  # most calls give all prompts the same
            last = self._last_bad_words = (words, tokenize_bad_words(self.tokenizer, words))
        return last[1]
