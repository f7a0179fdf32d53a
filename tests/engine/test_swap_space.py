"""What preempted requests have computed waits in host pages, and comes back in place of being computed again."""

import pytest

from jaxllm.engine import Engine
from jaxllm.engine.request import Request
from jaxllm.engine.swap_space import SwapSpace
from tests.engine.helpers import FakeRunner, Params, expected_tokens, make_internal, make_request, rows, run_all


def make_preempted(request_id: str, num_computed_tokens: int, page_ids: list[int]) -> Request:
    request = make_internal(make_request(request_id, [1] * 20))
    request.set_pages(page_ids)
    request.num_computed_tokens = num_computed_tokens
    return request


def start(runner: FakeRunner, **options) -> tuple[Engine, list]:
    """An engine that preempts its second request in the third step."""
    requests = [make_request("a", [1, 2, 3, 4, 5, 6, 7], max_tokens=7), make_request("b", [8] * 7, max_tokens=4)]
    engine = Engine(runner, **options)
    for request in requests:
        engine.add_request(request)
    return engine, requests


def test_pages_that_hold_something_are_saved_and_loaded() -> None:
    space = SwapSpace(4)
    space.grow(5)
    request = make_preempted("a", 9, [7, 8, 9, 10, 11])
    space.save(request)
    saves = dict(space.take_saves())
    assert list(saves) == [7, 8, 9]
    assert space.take_saves() == ()
    assert (request.num_saved_tokens, space.num_used) == (9, 3)
    request.set_pages([1, 2, 3, 4, 5])
    request.num_computed_tokens = 0
    assert space.load(request) == [(saves[7], 1), (saves[8], 2), (saves[9], 3)]
    assert (request.num_computed_tokens, request.num_saved_tokens, space.num_used) == (9, 0, 0)


def test_pages_of_the_prefix_cache_are_not_loaded() -> None:
    space = SwapSpace(4)
    space.grow(5)
    request = make_preempted("a", 9, [7, 8, 9])
    space.save(request)
    saves = dict(space.take_saves())
    request.set_pages([1, 2, 3])
    request.num_computed_tokens = 8
    assert space.load(request) == [(saves[9], 3)]
    assert request.num_computed_tokens == 9


def test_a_longer_prefix_in_the_cache_counts() -> None:
    space = SwapSpace(4)
    space.grow(1)
    request = make_preempted("a", 9, [7, 8, 9])
    space.save(request)
    request.set_pages([1, 2, 3])
    request.num_computed_tokens = 8
    assert space.load(request) == []
    assert request.num_computed_tokens == 8


def test_a_full_space_keeps_the_beginning() -> None:
    space = SwapSpace(4)
    space.grow(2)
    first, second = make_preempted("a", 9, [7, 8, 9]), make_preempted("b", 9, [10, 11, 12])
    space.save(first)
    space.save(second)
    assert [page_id for page_id, _ in space.take_saves()] == [7, 8]
    assert (first.num_saved_tokens, second.num_saved_tokens, space.num_used) == (8, 0, 2)
    space.grow(3)
    space.save(second)
    assert second.num_saved_tokens == 4


def test_what_is_dropped_before_it_was_saved_is_not_saved() -> None:
    space = SwapSpace(4)
    space.grow(2)
    space.save(make_preempted("a", 8, [7, 8]))
    space.clear()
    assert space.num_used == 0
    assert space.take_saves() == ()


@pytest.mark.parametrize("enable_prefix_caching", [True, False])
def test_a_preempted_request_comes_back_as_it_was(enable_prefix_caching: bool) -> None:
    runner = FakeRunner(num_pages=6, max_model_len=16, num_host_pages=8)
    engine, requests = start(runner, enable_prefix_caching=enable_prefix_caching)
    collected = run_all(engine)
    assert [page_id for step in runner.steps for page_id, _ in step.page_saves] == [3, 4]
    # One token was drawn but not computed when b lost its pages; with the cache, its first page was still there.
    number, step = next((number, step) for number, step in enumerate(runner.steps) if step.page_loads)
    assert len(step.page_loads) == (1 if enable_prefix_caching else 2)
    assert [row[:3] for row in rows(step)] == [("b", 8, 1)]
    assert step.starts[0].output_token_ids.tolist() == expected_tokens(requests[1], 16)[:2]
    assert number == 7
    assert collected["b"].token_ids == expected_tokens(requests[1], 16)
    metrics = engine.metrics()
    assert (metrics.num_preemptions, metrics.num_saved_tokens) == (1, 8)
    assert metrics.num_scheduled_tokens == 7 + 7 + 6 + 3
    assert engine._swap_space.num_used == 0


def test_memory_is_asked_for_when_the_cache_is_nearly_full() -> None:
    runner = FakeRunner(num_pages=9, num_host_pages=8, max_model_len=32)
    engine = Engine(runner)
    run_all(engine, [make_request("a", [1] * 20, max_tokens=4)])
    assert not runner.wants_host_pages
    run_all(engine, [make_request("b", [1] * 28, max_tokens=1)])
    assert runner.wants_host_pages


def test_an_aborted_request_gives_its_host_pages_back() -> None:
    engine, _ = start(FakeRunner(num_pages=6, max_model_len=16, num_host_pages=8))
    while engine.metrics().num_preemptions == 0:
        engine.step()
    assert engine._swap_space.num_used == 2
    engine.abort(["b"])
    assert engine._swap_space.num_used == 0
    run_all(engine)


def test_a_reset_forgets_what_was_saved() -> None:
    """As after new weights: neither what was saved before nor what runs now may be used again."""
    runner = FakeRunner(num_pages=6, max_model_len=16, num_host_pages=8)
    engine, requests = start(runner)
    while engine.metrics().num_preemptions == 0:
        engine.step()
    engine.preempt_all()
    assert engine.reset_prefix_cache()
    assert engine._swap_space.num_used == 0
    num_before = len(runner.steps)
    collected = run_all(engine)
    assert not any(step.page_loads for step in runner.steps[num_before:])
    assert collected["b"].token_ids[-1] == expected_tokens(requests[1], 16)[-1]


def test_beam_searches_start_again_from_their_prompts() -> None:
    engine = Engine(FakeRunner(num_pages=12, max_model_len=44, num_host_pages=8))
    search = make_request("b", [2] * 7, beam_width=3, max_tokens=8)
    run_all(engine, [make_request("a", [1] * 7, max_tokens=30), search])
    assert engine.metrics().num_preemptions > 0
    assert engine.metrics().num_saved_tokens == 0


def test_prompt_logprobs_go_on_where_they_stopped() -> None:
    runner = FakeRunner(num_pages=6, max_model_len=16, num_host_pages=8)
    params = Params(max_tokens=4, prompt_logprobs=0)
    requests = [make_request("a", [1, 2, 3, 4, 5, 6, 7], max_tokens=7), make_request("b", [8] * 7, params=params)]
    collected = run_all(Engine(runner), requests)
    assert any(step.page_loads for step in runner.steps)
    assert collected["b"].prompt_logprob_ids == [8] * 6
    assert collected["b"].token_ids == expected_tokens(requests[1], 16)
