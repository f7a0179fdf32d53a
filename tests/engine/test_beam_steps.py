"""Which steps serve a beam search, and what they are told of it."""

from __future__ import annotations

import pytest

from jaxllm.engine import Engine
from jaxllm.errors import ValidationError
from jaxllm.steps import BeamSettings, ScheduledStep
from tests.engine.helpers import (
    Collected,
    FakeRunner,
    Params,
    collect,
    expected_results,
    expected_tokens,
    make_request,
    rows,
    run_all,
)


def step_rows(step: ScheduledStep) -> list[tuple[str, int]]:
    return [(row.request_id, row.num_computed_tokens) for row in step.requests]


def test_all_beams_of_a_search_are_in_each_step() -> None:
    runner = FakeRunner()
    request = make_request("a", [1, 2, 3, 4, 5, 6], beam_width=3, max_tokens=3)
    collected = run_all(Engine(runner), [request])
    assert [step_rows(step) for step in runner.steps] == [[("a", 0)], [("a", 6)] * 3, [("a", 7)] * 3]
    assert [step.num_beam_places for step in runner.steps] == [3, 3, 3]
    assert runner.steps[1].page_copies == ((2, 3), (2, 4))
    assert [row[3] for row in rows(runner.steps[1])] == [[1, 3], [1, 4], [1, 2]]
    assert collected["a"].beams == expected_results(request, 64)
    assert collected["a"].finish_reason == "length"


def test_a_search_starts_with_its_settings_and_end_tokens() -> None:
    runner = FakeRunner()
    run_all(Engine(runner), [make_request("a", [1, 2], beam_width=2, eos_token_ids=(7, 3), max_tokens=1)])
    (start,) = runner.steps[0].starts
    assert start.beam == BeamSettings(width=2)
    assert start.stop_token_ids == (3, 7)


def test_rows_bring_their_token_and_score() -> None:
    runner = FakeRunner()
    request = make_request("a", [1, 2], beam_width=2, max_tokens=2)
    run_all(Engine(runner), [request])
    first = expected_results(make_request("a", [1, 2], beam_width=2, max_tokens=1), 64)
    second = runner.steps[1].requests
    assert [row.token_ids.tolist() for row in second if row.token_ids is not None] == [tokens for tokens, _ in first]
    assert [row.beam_score for row in second] == [score for _, score in first]
    assert [(row.num_output_tokens, row.samples) for row in second] == [(1, True)] * 2


def test_a_search_waits_until_its_beams_are_known() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    engine.add_request(make_request("a", [1, 2], beam_width=2, max_tokens=3))
    engine.add_request(make_request("b", [3, 4], max_tokens=5))
    run_all(engine)
    served = [sorted({row.request_id for row in step.requests}) for step in runner.steps]
    assert served == [["a", "b"], ["b"], ["a", "b"], ["b"], ["a", "b"]]


def test_searches_go_on_together_although_their_prompts_end_in_different_steps() -> None:
    runner = FakeRunner(max_num_batched_tokens=8)
    searches = [make_request(name, [ord(name) - 90] * 6, beam_width=2, max_tokens=4) for name in "ab"]
    run_all(Engine(runner), searches)
    counted = [[row.request_id for row in step.requests] for step in runner.steps]
    assert counted == [["a", "b"], ["b"], ["a", "a", "b", "b"], ["a", "a", "b", "b"], ["a", "a", "b", "b"]]


def test_a_search_takes_as_many_slots_as_it_has_beams() -> None:
    runner = FakeRunner(max_num_seqs=4)
    engine = Engine(runner)
    for name, width in (("a", 3), ("b", 2)):
        engine.add_request(make_request(name, [ord(name) - 90] * 2, beam_width=width, max_tokens=2))
    engine.step()
    metrics = engine.metrics()
    assert (metrics.num_running, metrics.num_waiting) == (1, 1)
    run_all(engine)
    assert [step_rows(step)[0][0] for step in runner.steps] == ["a", "a", "b", "b"]


def test_a_search_larger_than_what_is_left_of_the_budget_waits() -> None:
    runner = FakeRunner(max_num_seqs=6, max_num_batched_tokens=6)
    engine = Engine(runner)
    engine.add_request(make_request("a", [1, 2], max_tokens=12))
    engine.add_request(make_request("b", [3, 4], max_tokens=12))
    engine.add_request(make_request("c", [5], beam_width=4, max_tokens=2))
    collected = run_all(engine)
    assert all(len([row for row in step.requests if row.request_id == "c"]) in (0, 1, 4) for step in runner.steps)
    assert collected["c"].beams == expected_results(make_request("c", [5], beam_width=4, max_tokens=2), 64)


def test_the_prompt_of_a_search_is_cut_into_chunks() -> None:
    runner = FakeRunner(max_num_batched_tokens=4)
    request = make_request("a", [1, 2, 3, 4, 5, 6, 7, 8, 9], beam_width=2, max_tokens=2)
    collected = run_all(Engine(runner), [request])
    assert [row[1:3] for step in runner.steps[:3] for row in rows(step)] == [(0, 4), (4, 4), (8, 1)]
    assert [step.num_beam_places for step in runner.steps] == [0, 0, 2, 2]
    assert collected["a"].beams == expected_results(request, 64)


def test_a_search_finds_its_prompt_in_the_prefix_cache_and_leaves_it_there() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    requests = [make_request(name, [1, 2, 3, 4, 5, 6], beam_width=2, max_tokens=3) for name in "ab"]
    for request in requests:
        collected = run_all(engine, [request])
    assert collected["b"].num_cached_tokens == 4
    assert collected["b"].beams == expected_results(requests[1], 64)
    assert engine.metrics().prefix_cache_hits == 4


def test_a_search_that_lost_its_pages_starts_again() -> None:
    runner = FakeRunner(num_pages=12, max_model_len=44)
    first = make_request("a", [1] * 7, max_tokens=30)
    search = make_request("b", [2] * 7, beam_width=3, max_tokens=8)
    engine = Engine(runner)
    collected = run_all(engine, [first, search])
    assert engine.metrics().num_preemptions > 0
    assert collected["a"].token_ids == expected_tokens(first, 44)
    assert collected["b"].beams == expected_results(search, 44)
    starts = [start for step in runner.steps for start in step.starts if start.beam is not None]
    assert len(starts) == 1 + engine.metrics().num_preemptions
    assert engine.metrics().num_prompt_tokens == 14


@pytest.mark.parametrize("num_steps", range(6))
def test_abort_takes_all_pages_and_slots(num_steps: int) -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    engine.add_request(make_request("a", [1, 2, 3, 4, 5], beam_width=4, max_tokens=20))
    for _ in range(num_steps):
        assert all(output.beams == () for output in engine.step())
    engine.abort(["a"])
    metrics = engine.metrics()
    assert (metrics.num_running, metrics.num_waiting, metrics.kv_cache_usage) == (0, 0, 0.0)
    assert metrics.finished_by_reason == {"abort": 1}
    again = make_request("a", [9, 8], beam_width=4, max_tokens=2)
    assert run_all(engine, [again])["a"].beams == expected_results(again, 64)


def test_a_search_ends_when_no_beam_is_left() -> None:
    params = Params(max_tokens=8, allowed_token_ids=(5,))
    request = make_request("a", [1, 2], beam_width=2, params=params, eos_token_ids=(5,))
    runner = FakeRunner()
    engine = Engine(runner)
    collected = run_all(engine, [request])
    assert len(runner.steps) == 1
    assert [tokens for tokens, _ in collected["a"].beams] == [[5]]
    assert collected["a"].finish_reason == "stop"
    assert engine.metrics().num_generation_tokens == 1


def test_generated_tokens_of_all_results_are_counted_at_the_end() -> None:
    engine = Engine(FakeRunner())
    engine.add_request(make_request("a", [1, 2], beam_width=3, max_tokens=4))
    outputs = [output for _ in range(4) for output in engine.step()]
    assert [(output.new_token_ids, output.finish_reason) for output in outputs] == [((), None)]
    assert engine.metrics().num_generation_tokens == 0
    run_all(engine)
    metrics = engine.metrics()
    assert metrics.num_generation_tokens == 12
    assert metrics.finished_by_reason == {"length": 1}
    assert metrics.num_scheduled_tokens == 2 + 3 * 3


def test_preempting_everything_starts_searches_again() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    request = make_request("a", [1, 2, 3, 4, 5], beam_width=2, max_tokens=4)
    engine.add_request(request)
    collected: dict[str, Collected] = {}
    for _ in range(5):
        collect(collected, engine.step())
    engine.preempt_all()
    assert engine.reset_prefix_cache()
    collected |= run_all(engine)
    assert collected["a"].beams == expected_results(request, 64)


@pytest.mark.parametrize(
    ("fields", "runner", "message"),
    [
        (
            {"beam_width": 5},
            {},
            r"beam_width must be at most max_num_seqs \(4\), as all beams of a prompt share a step",
        ),
        (
            {"beam_width": 4},
            {"max_num_batched_tokens": 3, "max_num_seqs": 4},
            r"beam_width must be at most max_num_batched_tokens \(3\), .* got 4",
        ),
        (
            {"beam_width": 4, "max_tokens": 20},
            {"num_pages": 17},
            "4 beams of up to 22 tokens, 2 of the prompt included, may need 24 pages of 4 tokens, and the KV cache has "
            "16: lower beam_width or max_tokens, or raise kv_cache_memory_bytes",
        ),
        ({"beam_width": 2, "eos_token_ids": tuple(range(9))}, {}, "heeds at most 8 EOS tokens, and the model has 9"),
    ],
)
def test_searches_that_could_never_run_are_refused(fields: dict, runner: dict, message: str) -> None:
    engine = Engine(FakeRunner(**runner))
    with pytest.raises(ValidationError, match=message):
        engine.add_request(make_request("a", [1, 2], **fields))
    assert not engine.has_unfinished_requests()
