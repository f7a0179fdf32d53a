"""Random requests, aborts and pools: nothing leaks, nothing is shared wrongly, everything finishes as it should.

The FakeRunner checks the budget, the slots and the content of all pages in every step.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from jaxllm.engine import Engine, EngineRequest
from jaxllm.errors import ValidationError
from tests.engine.helpers import (
    Collected,
    FakeRunner,
    Params,
    collect,
    expected_results,
    expected_tokens,
    make_request,
)

MAX_MODEL_LEN = 20
SHARED_PROMPT = [7, 7, 8, 9, 7, 7, 8, 9, 1, 2, 3, 4]
MAX_STEPS = 2000


@dataclass(frozen=True)
class Add:
    request: EngineRequest


@dataclass(frozen=True)
class End:
    index: int
    """Which of the requests added so far."""
    by_stop_string: bool


@dataclass(frozen=True)
class Steps:
    count: int


@st.composite
def params(draw: st.DrawFn) -> Params:
    max_tokens = draw(st.integers(1, 14))
    return Params(
        max_tokens=max_tokens,
        min_tokens=draw(st.integers(0, max_tokens)),
        ignore_eos=draw(st.booleans()),
        stop_token_ids=draw(st.sampled_from([(), (3,), (3, 11, 12, 13)])),
        logprobs=draw(st.sampled_from([None, None, 1])),
        prompt_logprobs=draw(st.sampled_from([None, None, None, 0])),
    )


@st.composite
def requests(draw: st.DrawFn) -> EngineRequest:
    prompt = SHARED_PROMPT[: draw(st.integers(0, 12))] + draw(st.lists(st.integers(1, 3), min_size=1, max_size=7))
    return make_request(
        "unnamed",
        prompt,
        params=draw(params()),
        eos_token_ids=draw(st.sampled_from([(), (5,), (5, 6, 20, 30, 40)])),
        seed=draw(st.integers(0, 2)),
        priority=draw(st.integers(0, 2)),
        cache_salt=draw(st.sampled_from([None, None, None, "salt"])),
        bad_word_ids=draw(st.sampled_from([(), (), ((1,),), ((1, 2, 3),)])),
    )


@st.composite
def searches(draw: st.DrawFn) -> EngineRequest:
    request = draw(requests())
    params = Params(
        max_tokens=draw(st.integers(1, 14)),
        ignore_eos=draw(st.booleans()),
        allowed_token_ids=draw(st.sampled_from([None, None, (5,), tuple(range(0, 50, 7))])),
        skip_reading_prefix_cache=draw(st.booleans()),
    )
    return make_request(
        "unnamed",
        request.prompt_token_ids,
        params=params,
        eos_token_ids=draw(st.sampled_from([(), (5,), (5, 6, 20, 30, 40), tuple(range(0, 48, 6))])),
        priority=request.priority,
        cache_salt=request.cache_salt,
        beam_width=draw(st.integers(1, 6)),
        length_penalty=draw(st.sampled_from([1.0, 0.0, 2.0])),
    )


ends = st.builds(End, st.integers(0, 30), st.booleans())
actions = st.lists(
    st.one_of(st.builds(Add, requests()), st.builds(Add, searches()), ends, st.builds(Steps, st.integers(1, 6))),
    min_size=4,
    max_size=24,
)


@st.composite
def runners(draw: st.DrawFn) -> FakeRunner:
    page_size = draw(st.sampled_from([1, 2, 4]))
    return FakeRunner(
        page_size=page_size,
        num_pages=1 + MAX_MODEL_LEN // page_size + draw(st.integers(0, 16)),
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=draw(st.integers(1, 8)),
        max_num_batched_tokens=draw(st.integers(1, 24)),
        num_host_pages=draw(st.sampled_from([0, 0, 3, 100])),
    )


def fits(request: EngineRequest, runner: FakeRunner) -> bool:
    """Whether all beams could run at once, each with its own pages behind the full ones of the prompt."""
    assert request.beam is not None
    width, num_prompt_tokens = request.beam.width, len(request.prompt_token_ids)
    num_tokens = min(num_prompt_tokens + (request.sampling_params.max_tokens or 0), runner.max_model_len)
    pages_of_a_beam = [position // runner.page_size for position in range(num_tokens - 1)]
    num_shared = num_prompt_tokens // runner.page_size
    num_own = len({page for page in pages_of_a_beam if page >= num_shared})
    is_narrow = width <= min(runner.max_num_seqs, runner.max_num_batched_tokens)
    return is_narrow and num_shared + width * num_own <= runner.num_pages - 1


def check_books(engine: Engine) -> None:
    """Every page and slot is accounted for, and pages are shared only by beams and through the prefix cache."""
    scheduler, tables = engine._scheduler, engine._page_tables
    holders: Counter[int] = Counter()
    forked: set[int] = set()
    for request in scheduler.running:
        pages = request.page_ids.tolist()
        assert len(set(pages)) == len(pages)
        holders.update(pages)
        own = [beam.page_ids.tolist()[len(pages) :] for beam in request.search.beams] if request.search else []
        for beam_pages in own:
            assert not set(beam_pages) & set(pages)
            holders.update(beam_pages)
        forked.update(page_id for beam_pages in own for page_id in beam_pages)
    pool = tables.pool
    references = {page_id: pool.num_references(page_id) for page_id in range(pool.num_pages)}
    assert {page_id: count for page_id, count in references.items() if count > 0} == holders
    assert sorted([*pool.free_page_ids, *holders]) == list(range(1, pool.num_pages))
    shared = [page_id for page_id, count in holders.items() if count > 1 and page_id not in forked]
    assert all(tables.prefix_cache is not None and tables.prefix_cache.holds_page(page_id) for page_id in shared)
    slots = [slot for one in scheduler.running for slot in (one.slot, *one.extra_slots) if slot is not None]
    assert sorted([*scheduler.running.slots.free, *slots]) == list(range(engine._runner.max_num_seqs))
    assert len(scheduler.running) + len(scheduler.waiting) == len(engine._requests)
    saved = [page for request in engine._requests.values() for page in request.host_page_ids]
    assert len(set(saved)) == len(saved) == engine._swap_space.num_used


def check_outputs(request: EngineRequest, entry: Collected, *, was_ended: bool) -> None:
    if request.beam is not None:
        assert entry.token_ids == []
        if was_ended and entry.finish_reason is None:
            assert entry.beams == []
            return
        assert entry.beams == expected_results(request, MAX_MODEL_LEN)
        assert entry.finish_reason in ("stop", "length")
        return
    expected = expected_tokens(request, MAX_MODEL_LEN)
    if was_ended and entry.finish_reason is None:
        assert entry.token_ids == expected[: len(entry.token_ids)]
        return
    assert entry.token_ids == expected
    assert entry.logprob_ids == (expected if request.sampling_params.logprobs is not None else [])
    wants_prompt = request.sampling_params.prompt_logprobs is not None
    assert entry.prompt_logprob_ids == (list(request.prompt_token_ids[1:]) if wants_prompt else [])
    assert entry.finish_reason in ("stop", "length")


@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    runner=runners(),
    actions=actions,
    policy=st.sampled_from(["fcfs", "priority"]),
    enable_prefix_caching=st.booleans(),
    chunk_size=st.sampled_from([None, None, 1, 3]),
)
def test_random_lives_of_an_engine(
    runner: FakeRunner,
    actions: list[Add | End | Steps],
    policy: str,
    enable_prefix_caching: bool,
    chunk_size: int | None,
) -> None:
    engine = Engine(
        runner, scheduling_policy=policy, enable_prefix_caching=enable_prefix_caching, chunk_size=chunk_size
    )
    added: list[EngineRequest] = []
    ended: set[str] = set()
    collected: dict[str, Collected] = {}
    for action in actions:
        match action:
            case Add(request):
                request = replace(request, request_id=f"r{len(added)}")
                if request.beam is not None and not fits(request, runner):
                    with pytest.raises(ValidationError, match="beam"):
                        engine.add_request(request)
                    continue
                engine.add_request(request)
                added.append(request)
            case End(index, by_stop_string) if index < len(added):
                request_id = added[index].request_id
                ended.add(request_id)
                engine.finish(request_id) if by_stop_string else engine.abort([request_id])
            case Steps(count):
                for _ in range(count):
                    collect(collected, engine.step())
                    check_books(engine)
        check_books(engine)

    num_steps = 0
    while engine.has_unfinished_requests():
        collect(collected, engine.step())
        check_books(engine)
        num_steps += 1
        assert num_steps < MAX_STEPS, "the engine goes round in circles"

    for request in added:
        entry = collected.get(request.request_id, Collected())
        check_outputs(request, entry, was_ended=request.request_id in ended)
    metrics = engine.metrics()
    assert (metrics.num_running, metrics.num_waiting, metrics.kv_cache_usage) == (0, 0, 0)
    assert sum(metrics.finished_by_reason.values()) == len(added)
    assert engine.step() == []
    event(f"preemptions: {min(metrics.num_preemptions, 3)}")
    event(f"saved tokens: {metrics.num_saved_tokens > 0}")
    event(f"cache hits: {metrics.prefix_cache_hits > 0}")
    event(f"page copies: {min(sum(len(step.page_copies) for step in runner.steps), 3)}")
