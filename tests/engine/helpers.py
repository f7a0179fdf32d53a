"""A runner without a device, and builders of requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, cast

import numpy as np

from jaxllm.engine import Engine, EngineOutput, EngineRequest
from jaxllm.engine.request import Request
from jaxllm.steps import NO_TARGET, BeamSettings, ScheduledRequest, ScheduledStep, SlotStart, StepResult, TokenLogprobs
from tests.engine.beam_helpers import VOCAB_SIZE, FakeSearch, ScoredTokens, expected_beams, mix

if TYPE_CHECKING:
    from jaxllm.sampling_params import SamplingParams

EOS = 0
NOTHING = -1


@dataclass(frozen=True, kw_only=True)
class Params:
    """The fields of SamplingParams that the engine reads."""

    max_tokens: int = 8
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_reading_prefix_cache: bool | None = None
    allowed_token_ids: tuple[int, ...] | None = None


def make_request(
    request_id: str,
    prompt_token_ids: Sequence[int],
    *,
    eos_token_ids: tuple[int, ...] = (),
    seed: int = 0,
    priority: int = 0,
    arrival_time: float = 0.0,
    cache_salt: str | None = None,
    bad_word_ids: tuple[tuple[int, ...], ...] = (),
    params: Params | None = None,
    max_tokens: int = 8,
    beam_width: int | None = None,
    length_penalty: float = 1.0,
) -> EngineRequest:
    beam = None if beam_width is None else BeamSettings(width=beam_width, length_penalty=length_penalty)
    return EngineRequest(
        request_id=request_id,
        prompt_token_ids=prompt_token_ids,
        sampling_params=cast("SamplingParams", params or Params(max_tokens=max_tokens)),
        eos_token_ids=eos_token_ids,
        seed=seed,
        priority=priority,
        arrival_time=arrival_time,
        cache_salt=cache_salt,
        bad_word_ids=bad_word_ids,
        beam=beam,
    )


def make_internal(source: EngineRequest, *, order: tuple[float, ...] = (0,), max_model_len: int = 1000) -> Request:
    """The request as the engine keeps it."""
    prompt_token_ids = np.asarray(source.prompt_token_ids)
    return Request(source, prompt_token_ids=prompt_token_ids, max_model_len=max_model_len, order=order)


def draw(state: int, seed: int, banned: frozenset[int]) -> int:
    """The next token of a sequence in this state."""
    value = mix(state, seed)
    while (value >> 20) % VOCAB_SIZE in banned:
        value = mix(value, 1)
    return (value >> 20) % VOCAB_SIZE


def stop_ids(request: EngineRequest) -> frozenset[int]:
    params = request.sampling_params
    return frozenset(params.stop_token_ids) | frozenset(() if params.ignore_eos else request.eos_token_ids)


def expected_tokens(request: EngineRequest, max_model_len: int) -> list[int]:
    """What the request must generate, computed without an engine."""
    params = request.sampling_params
    assert params.max_tokens is not None
    state = 0
    for token_id in request.prompt_token_ids:
        state = mix(state, int(token_id))
    outputs: list[int] = []
    stops = stop_ids(request)
    while len(outputs) < min(params.max_tokens, max_model_len - len(request.prompt_token_ids)):
        banned = stops if len(outputs) < params.min_tokens else frozenset()
        outputs.append(draw(state, request.seed, banned))
        if outputs[-1] in stops:
            break
        state = mix(state, outputs[-1])
    return outputs


def expected_results(request: EngineRequest, max_model_len: int) -> list[ScoredTokens]:
    """What a beam search must find, computed without an engine."""
    params, beam = request.sampling_params, request.beam
    assert beam is not None
    assert params.max_tokens is not None
    prompt = [int(token_id) for token_id in request.prompt_token_ids]
    return expected_beams(
        prompt,
        width=beam.width,
        max_tokens=min(params.max_tokens, max_model_len - len(prompt)),
        end_ids=sorted(stop_ids(request)),
        allowed=params.allowed_token_ids,
        length_penalty=beam.length_penalty,
    )


def token_logprobs(token_id: int) -> TokenLogprobs:
    return TokenLogprobs(
        token_id=token_id,
        logprob=-float(token_id),
        rank=1,
        top_token_ids=np.array([token_id], np.int32),
        top_logprobs=np.array([-token_id], np.float32),
    )


@dataclass
class Slot:
    """What the device knows about the request in a slot."""

    start: SlotStart
    history: list[int]
    """Prompt and outputs, every drawn token included."""
    request_id: str | None = None
    search: FakeSearch | None = None


@dataclass
class FakeHandle:
    runner: FakeRunner
    step_id: int

    def is_ready(self) -> bool:
        return self.step_id in self.runner.results

    def result(self) -> StepResult:
        return self.runner.run_until(self.step_id)


@dataclass
class FakeRunner:
    """Runs steps in order, and late, over pages that remember what was written into them.

    An entry holds the state of the whole sequence up to its token. Every step checks that the pages of each request
    hold exactly what the request's tokens would have written, so pages shared or reused wrongly are found.
    """

    num_pages: int = 33
    page_size: int = 4
    max_model_len: int = 64
    max_num_seqs: int = 4
    max_num_batched_tokens: int = 32
    vocab_size: int = VOCAB_SIZE
    num_host_pages: int = 0
    steps: list[ScheduledStep] = field(default_factory=list)
    results: dict[int, StepResult] = field(default_factory=dict)
    is_shut_down: bool = False
    wants_host_pages: bool = False

    def __post_init__(self) -> None:
        self.entries = np.full((self.num_pages, self.page_size), NOTHING, np.int64)
        self.saved = np.full((self.num_host_pages, self.page_size), NOTHING, np.int64)
        self.slots: dict[int, Slot] = {}
        self.pending: list[ScheduledStep] = []

    def dispatch(self, step: ScheduledStep) -> FakeHandle:
        self._check_limits(step)
        self.steps.append(step)
        self.pending.append(step)
        return FakeHandle(self, step.step_id)

    def reserve_host_pages(self) -> None:
        self.wants_host_pages = True

    def shutdown(self) -> None:
        self.is_shut_down = True

    def run_until(self, step_id: int) -> StepResult:
        while step_id not in self.results:
            step = self.pending.pop(0)
            self.results[step.step_id] = self._run(step)
        return self.results[step_id]

    def _check_limits(self, step: ScheduledStep) -> None:
        assert 0 < step.num_tokens <= self.max_num_batched_tokens
        assert len(step.requests) <= self.max_num_seqs
        assert all(request.num_tokens >= 1 for request in step.requests)
        singles = [request.num_tokens == 1 for request in step.requests]
        assert singles == sorted(singles, reverse=True), "single tokens come first"
        slots = [next(rows).slot for _, rows in groupby(step.requests, lambda request: request.request_id)]
        assert len(set(slots)) == len(slots)
        assert all(0 <= slot < self.max_num_seqs for slot in slots)
        assert {start.slot for start in step.starts} <= set(slots)
        assert step.num_beam_places <= self.max_num_seqs
        assert len(step.page_copies) <= len(step.requests)
        sources, destinations = {source for source, _ in step.page_copies}, [to for _, to in step.page_copies]
        assert len(set(destinations) | sources | {0}) == len(destinations) + len(sources) + 1

    def _run(self, step: ScheduledStep) -> StepResult:
        for start in step.starts:
            history = [*start.prompt_token_ids.tolist(), *start.output_token_ids.tolist()]
            search = None if start.beam is None else FakeSearch(start)
            self.slots[start.slot] = Slot(start, history, search=search)
        assert len({host_page for _, host_page in step.page_saves}) == len(step.page_saves)
        assert len({page for _, page in step.page_loads}) == len(step.page_loads)
        for page, host_page in step.page_saves:
            self.saved[host_page] = self.entries[page]
        for host_page, page in step.page_loads:
            self.entries[page] = self.saved[host_page]
        for source, destination in step.page_copies:
            self.entries[destination] = self.entries[source]
        rows = self._find_rows(step)
        # All reads come before all writes: a step must not rely on what it computes itself.
        states = [self._check_request(request, history) for request, history in rows]
        written: set[tuple[int, int]] = set()
        for (request, history), before in zip(rows, states, strict=True):
            self._write(request, history, before, written)
        for page_id, _ in written:
            assert sum(page_id in request.page_ids for request in step.requests) == 1, "a shared page is written"
        return self._draw(rows, step)

    def _find_rows(self, step: ScheduledStep) -> list[tuple[ScheduledRequest, list[int]]]:
        """The rows with all tokens of their sequences."""
        found: list[tuple[ScheduledRequest, list[int]]] = []
        num_places = 0
        for _, group in groupby(step.requests, lambda request: request.request_id):
            requests = list(group)
            slot = self.slots[requests[0].slot]
            if requests[0].beam_score is None:
                found.append((requests[0], slot.history))
                continue
            assert slot.search is not None
            assert slot.start.beam is not None
            slot.search.check_rows(requests)
            num_places += slot.start.beam.width
            found += [
                (request, slot.history + tokens)
                for request, (tokens, _) in zip(requests, slot.search.beams, strict=True)
            ]
        assert num_places == step.num_beam_places
        return found

    def _check_request(self, request: ScheduledRequest, history: list[int]) -> int:
        """Checks the message and the pages; returns the state after the computed tokens."""
        slot = self.slots[request.slot]
        slot.request_id = slot.request_id or request.request_id
        assert slot.request_id == request.request_id, "the slot belongs to another request"
        start, end = request.num_computed_tokens, request.num_computed_tokens + request.num_tokens
        tokens = history[start:end]
        assert len(tokens) == request.num_tokens, "more tokens than exist"
        if request.token_ids is None:
            assert start == len(history) - 1
        else:
            assert request.token_ids.tolist() == tokens
        assert request.samples == (end == len(history))
        assert request.num_output_tokens == len(history) - len(slot.start.prompt_token_ids)
        if request.recent_token_ids is not None:
            assert request.recent_token_ids.tolist() == history[-len(request.recent_token_ids) :]
        assert 0 not in request.page_ids
        assert len(request.page_ids) * self.page_size >= end
        return self._check_entries(request, history)

    def _check_entries(self, request: ScheduledRequest, history: list[int]) -> int:
        state = 0
        entries = self.entries[request.page_ids].reshape(-1)[: request.num_computed_tokens]
        for token_id, entry in zip(history, entries.tolist(), strict=False):
            state = mix(state, token_id)
            assert entry == state, f"a page of {request.request_id} holds something else than its tokens"
        return state

    def _write(self, request: ScheduledRequest, history: list[int], state: int, written: set[tuple[int, int]]) -> None:
        for position in range(request.num_computed_tokens, request.num_computed_tokens + request.num_tokens):
            state = mix(state, history[position])
            place = (int(request.page_ids[position // self.page_size]), position % self.page_size)
            assert place not in written, "two requests write the same place"
            written.add(place)
            self.entries[place] = state

    def _draw(self, rows: list[tuple[ScheduledRequest, list[int]]], step: ScheduledStep) -> StepResult:
        result = StepResult(step_id=step.step_id, token_ids={})
        states: dict[int, list[int]] = {}
        for request, history in rows:
            slot = self.slots[request.slot]
            if request.prompt_logprob_targets is not None:
                targets = [target for target in request.prompt_logprob_targets.tolist() if target != NO_TARGET]
                result.prompt_logprobs[request.request_id] = [token_logprobs(target) for target in targets]
            if not request.samples:
                continue
            last = len(history) - 1
            state = int(self.entries[request.page_ids[last // self.page_size], last % self.page_size])
            if request.beam_score is not None:
                states.setdefault(request.slot, []).append(state)
                continue
            is_banned = request.num_output_tokens < slot.start.sampling_params.min_tokens
            banned = frozenset(slot.start.stop_token_ids) if is_banned else frozenset()
            token_id = draw(state, slot.start.seed, banned)
            slot.history.append(token_id)
            result.token_ids[request.request_id] = token_id
            if slot.start.sampling_params.logprobs is not None:
                result.logprobs[request.request_id] = token_logprobs(token_id)
        for index, group in states.items():
            slot = self.slots[index]
            assert slot.search is not None
            assert slot.request_id is not None
            result.beams[slot.request_id] = slot.search.select(group)
        return result


@dataclass
class Collected:
    """All outputs of one request."""

    token_ids: list[int] = field(default_factory=list)
    logprob_ids: list[int] = field(default_factory=list)
    prompt_logprob_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | None = None
    num_cached_tokens: int = 0
    beams: list[ScoredTokens] = field(default_factory=list)


def collect(collected: dict[str, Collected], outputs: list[EngineOutput]) -> None:
    for output in outputs:
        entry = collected.setdefault(output.request_id, Collected())
        assert entry.finish_reason is None, "output after the end"
        entry.token_ids += output.new_token_ids
        entry.logprob_ids += [item.token_id for item in output.new_logprobs]
        entry.prompt_logprob_ids += [item.token_id for item in output.new_prompt_logprobs]
        entry.finish_reason = output.finish_reason
        entry.stop_reason = output.stop_reason
        entry.num_cached_tokens = output.num_cached_tokens
        entry.beams = [(list(beam.token_ids), beam.cum_logprob) for beam in output.beams]


def run_all(engine: Engine, requests: Sequence[EngineRequest] = ()) -> dict[str, Collected]:
    """Adds the requests and steps until none is left."""
    collected: dict[str, Collected] = {}
    for request in requests:
        engine.add_request(request)
    while engine.has_unfinished_requests():
        collect(collected, engine.step())
    return collected


def rows(step: ScheduledStep) -> list[tuple[str, int, int, list[int]]]:
    """Request id, first token, number of tokens and pages of each row."""
    return [
        (request.request_id, request.num_computed_tokens, request.num_tokens, request.page_ids.tolist())
        for request in step.requests
    ]
