"""What each step computes, by exact rows: (request, first token, number of tokens, pages)."""

from typing import TYPE_CHECKING, cast

import numpy as np

from jaxllm.engine import Engine
from jaxllm.engine.plan import PlannedStep
from jaxllm.engine.scheduler import Scheduler
from jaxllm.steps import NO_TARGET
from tests.engine.helpers import FakeRunner, Params, expected_tokens, make_request, rows, run_all

if TYPE_CHECKING:
    from jaxllm.sampling_params import SamplingParams


def start(runner: FakeRunner, *requests, **options) -> Engine:
    engine = Engine(runner, **options)
    for request in requests:
        engine.add_request(request)
    return engine


def schedule(scheduler: Scheduler) -> PlannedStep:
    planned = scheduler.schedule()
    assert planned is not None
    return planned


def test_a_request_is_prefilled_and_then_decodes_one_token_a_step() -> None:
    runner = FakeRunner()
    run_all(start(runner, make_request("a", [1, 2, 3, 4, 5], max_tokens=4)))
    assert [rows(step) for step in runner.steps] == [
        [("a", 0, 5, [1, 2])],
        [("a", 5, 1, [1, 2])],
        [("a", 6, 1, [1, 2])],
        [("a", 7, 1, [1, 2])],
    ]


def test_decode_tokens_stay_on_the_device() -> None:
    runner = FakeRunner()
    run_all(start(runner, make_request("a", [1, 2, 3], max_tokens=3)))
    requests = [step.requests[0] for step in runner.steps]
    assert requests[0].token_ids is not None
    assert requests[0].token_ids.tolist() == [1, 2, 3]
    assert [request.token_ids for request in requests[1:]] == [None, None]
    assert [request.num_output_tokens for request in requests] == [0, 1, 2]


def test_takes_a_page_when_the_last_one_is_full() -> None:
    runner = FakeRunner()
    run_all(start(runner, make_request("a", [1, 2, 3], max_tokens=4)))
    assert [rows(step)[0][3] for step in runner.steps] == [[1], [1], [1, 2], [1, 2]]


def test_splits_a_prompt_by_the_budget() -> None:
    runner = FakeRunner(max_num_batched_tokens=8)
    run_all(start(runner, make_request("a", list(range(20)), max_tokens=1)))
    pages = [1, 2, 3, 4, 5]
    assert [rows(step) for step in runner.steps] == [[("a", 0, 8, pages)], [("a", 8, 8, pages)], [("a", 16, 4, pages)]]
    assert [step.requests[0].samples for step in runner.steps] == [False, False, True]


def test_chunk_size_caps_each_request() -> None:
    runner = FakeRunner(max_num_batched_tokens=8)
    run_all(
        start(runner, make_request("a", [1] * 6, max_tokens=1), make_request("b", [2] * 6, max_tokens=1), chunk_size=3)
    )
    assert [[row[:3] for row in rows(step)] for step in runner.steps] == [
        [("a", 0, 3), ("b", 0, 3)],
        [("a", 3, 3), ("b", 3, 3)],
    ]


def test_mixes_decodes_and_chunks_with_decodes_first() -> None:
    runner = FakeRunner(max_num_batched_tokens=6)
    engine = start(runner, make_request("a", [1, 2, 3], max_tokens=3), make_request("b", [9] * 10, max_tokens=1))
    run_all(engine)
    assert [[row[:3] for row in rows(step)] for step in runner.steps] == [
        [("a", 0, 3), ("b", 0, 3)],
        [("a", 3, 1), ("b", 3, 5)],
        [("a", 4, 1), ("b", 8, 2)],
    ]


def test_decodes_of_younger_requests_are_not_delayed_by_a_chunk() -> None:
    runner = FakeRunner(max_num_batched_tokens=4)
    engine = start(
        runner,
        make_request("long", [1] * 9, priority=1, max_tokens=1),
        make_request("short", [2, 3], priority=0, max_tokens=3),
        scheduling_policy="priority",
    )
    run_all(engine)
    assert [[row[:3] for row in rows(step)] for step in runner.steps] == [
        [("short", 0, 2), ("long", 0, 2)],
        [("short", 2, 1), ("long", 2, 3)],
        [("short", 3, 1), ("long", 5, 3)],
        [("long", 8, 1)],
    ]


def test_a_request_waits_for_a_slot() -> None:
    runner = FakeRunner(max_num_seqs=1)
    run_all(start(runner, make_request("a", [1], max_tokens=2), make_request("b", [2], max_tokens=1)))
    assert [[row[:3] for row in rows(step)] for step in runner.steps] == [[("a", 0, 1)], [("a", 1, 1)], [("b", 0, 1)]]


def test_the_lowest_free_slot_is_taken() -> None:
    runner = FakeRunner()
    engine = start(runner, *(make_request(name, [1]) for name in "abcd"))
    engine.step()
    engine.abort(["b", "c"])
    engine.add_request(make_request("e", [1]))
    engine.step()
    assert [start.slot for start in runner.steps[0].starts] == [0, 1, 2, 3]
    assert [start.slot for start in runner.steps[1].starts] == [1]


def test_a_slot_start_tells_all_about_the_request() -> None:
    runner = FakeRunner()
    params = Params(stop_token_ids=(7, 3), max_tokens=1)
    engine = start(
        runner, make_request("a", [1, 2], params=params, eos_token_ids=(5,), seed=11, bad_word_ids=((4, 5),))
    )
    engine.step()
    (slot_start,) = runner.steps[0].starts
    assert slot_start.sampling_params is cast("SamplingParams", params)
    assert slot_start.seed == 11
    assert slot_start.stop_token_ids == (3, 5, 7)
    assert slot_start.bad_word_ids == ((4, 5),)
    assert slot_start.prompt_token_ids.tolist() == [1, 2]
    assert slot_start.output_token_ids.tolist() == []
    assert slot_start.prompt_token_ids.dtype == np.int32


def test_a_prompt_is_admitted_only_when_all_of_it_fits() -> None:
    runner = FakeRunner(num_pages=5, max_model_len=16, max_num_batched_tokens=4)
    engine = start(runner, make_request("a", [1] * 8, max_tokens=1), make_request("b", [2] * 12, max_tokens=1))
    engine.step()
    engine.step()
    assert [[row[0] for row in rows(step)] for step in runner.steps] == [["a"], ["a"]]


def test_the_last_request_gives_way_when_pages_run_out() -> None:
    runner = FakeRunner(num_pages=6, max_model_len=16)
    requests = [make_request("a", [1, 2, 3, 4, 5, 6, 7], max_tokens=4), make_request("b", [8] * 7, max_tokens=2)]
    collected = run_all(start(runner, *requests))
    assert [rows(step) for step in runner.steps] == [
        [("a", 0, 7, [1, 2]), ("b", 0, 7, [3, 4])],
        [("a", 7, 1, [1, 2]), ("b", 7, 1, [3, 4])],
        [("a", 8, 1, [1, 2, 5])],
        [("a", 9, 1, [1, 2, 5])],
    ]
    assert collected["b"].token_ids == expected_tokens(requests[1], 16)


def test_a_preempted_request_computes_again_what_the_cache_has_lost() -> None:
    runner = FakeRunner(num_pages=6, max_model_len=16)
    requests = [make_request("a", [1, 2, 3, 4, 5, 6, 7], max_tokens=7), make_request("b", [8] * 7, max_tokens=4)]
    engine = start(runner, *requests)
    collected = run_all(engine)
    drawn = expected_tokens(requests[1], 16)
    # a took b's second page, which was free for longer than the first, and gave it back in front of its own pages.
    assert rows(runner.steps[6]) == [("a", 12, 1, [1, 2, 5, 4])]
    assert rows(runner.steps[7]) == [("b", 4, 5, [3, 4, 5])]
    assert runner.steps[7].starts[0].output_token_ids.tolist() == drawn[:2]
    assert collected["b"].token_ids == drawn
    assert engine.metrics().num_preemptions == 1


def test_a_preempted_request_is_not_admitted_before_its_token_was_read() -> None:
    runner = FakeRunner(num_pages=6, max_model_len=16)
    engine = start(runner, make_request("a", [1] * 7), make_request("b", [2] * 7))
    scheduler = engine._scheduler
    planned = [schedule(scheduler) for _ in range(3)]  # the third preempts b
    scheduler.finish(planned[2].requests[0], "abort")
    assert scheduler.schedule() is None
    for plan in planned:
        scheduler.update(plan, runner.dispatch(plan.step).result())
    assert [row[:3] for row in rows(schedule(scheduler).step)] == [("b", 4, 5)]


def test_the_worst_priority_gives_way() -> None:
    runner = FakeRunner(num_pages=6, max_model_len=16)
    engine = start(
        runner,
        make_request("low", [1] * 7, priority=5),
        make_request("high", [2] * 7, priority=1),
        scheduling_policy="priority",
    )
    for _ in range(3):
        engine.step()
    assert [row[0] for row in rows(runner.steps[0])] == ["high", "low"]
    assert [row[0] for row in rows(runner.steps[2])] == ["high"]


def test_equal_priorities_go_by_arrival() -> None:
    runner = FakeRunner(max_num_seqs=1)
    engine = start(
        runner,
        make_request("late", [1], arrival_time=2.0, max_tokens=1),
        make_request("early", [1], arrival_time=1.0, max_tokens=1),
        scheduling_policy="priority",
    )
    run_all(engine)
    assert [row[0] for step in runner.steps for row in rows(step)] == ["early", "late"]


def test_fcfs_heeds_neither_priority_nor_arrival_time() -> None:
    runner = FakeRunner(max_num_seqs=1)
    engine = start(
        runner,
        make_request("first", [1], priority=9, arrival_time=9.0, max_tokens=1),
        make_request("second", [1], max_tokens=1),
    )
    run_all(engine)
    assert [row[0] for step in runner.steps for row in rows(step)] == ["first", "second"]


def test_admission_leaves_a_page_for_each_running_request() -> None:
    runner = FakeRunner(num_pages=5, max_model_len=16)
    engine = start(runner, make_request("a", [1] * 7, max_tokens=1), make_request("b", [2] * 7, max_tokens=1))
    run_all(engine)
    assert [[row[0] for row in rows(step)] for step in runner.steps] == [["a"], ["b"]]


def test_no_request_is_admitted_in_a_step_that_preempts() -> None:
    runner = FakeRunner(num_pages=6, max_model_len=16)
    engine = start(runner, make_request("a", [1] * 8), make_request("b", [2] * 8))
    engine.step()  # each needs a third page next, and only one is left
    engine.add_request(make_request("c", [3]))
    engine.step()
    assert [row[0] for row in rows(runner.steps[1])] == ["a"]
    assert engine.metrics().num_waiting == 2


def test_equal_prompts_added_together_are_computed_once() -> None:
    runner = FakeRunner()
    run_all(start(runner, *(make_request(name, [1, 2, 3, 4, 5, 6], seed=ord(name), max_tokens=2) for name in "abc")))
    assert [rows(step) for step in runner.steps[:2]] == [
        [("a", 0, 6, [1, 2])],
        [("a", 6, 1, [1, 2]), ("b", 4, 2, [1, 3]), ("c", 4, 2, [1, 4])],
    ]


def test_other_prompts_overtake_those_that_wait_for_a_page_in_the_making() -> None:
    runner = FakeRunner()
    prompts = {"a": [1] * 6, "b": [1] * 6, "c": [2] * 6}
    run_all(start(runner, *(make_request(name, prompt) for name, prompt in prompts.items())))
    assert [row[:3] for row in rows(runner.steps[0])] == [("a", 0, 6), ("c", 0, 6)]
    assert [row[:3] for row in rows(runner.steps[1])] == [("a", 6, 1), ("c", 6, 1), ("b", 4, 2)]


def test_equal_prompts_are_all_computed_when_caching_is_off() -> None:
    runner = FakeRunner()
    run_all(start(runner, make_request("a", [1] * 6), make_request("b", [1] * 6), enable_prefix_caching=False))
    assert [row[:3] for row in rows(runner.steps[0])] == [("a", 0, 6), ("b", 0, 6)]


def test_the_next_turn_finds_the_generated_pages() -> None:
    runner = FakeRunner()
    first = make_request("a", [1, 2, 3], max_tokens=6)
    engine = start(runner, first)
    run_all(engine)
    prompt = [1, 2, 3, *expected_tokens(first, 64), 9]
    collected = run_all(engine, [make_request("b", prompt, max_tokens=1)])
    assert rows(runner.steps[-1]) == [("b", 8, 2, [1, 2, 3])]
    assert collected["b"].num_cached_tokens == 8


def test_requests_with_long_bad_words_wait_for_their_token() -> None:
    runner = FakeRunner()
    request = make_request("a", [1, 2, 3], max_tokens=3, bad_word_ids=((4, 5, 6),))
    collected = run_all(start(runner, request, make_request("b", [7, 8], max_tokens=4)))
    assert [[row[0] for row in rows(step)] for step in runner.steps] == [["a", "b"], ["b"], ["a", "b"], ["b"], ["a"]]
    drawn = expected_tokens(request, 64)
    recent = [row.recent_token_ids for step in runner.steps for row in step.requests if row.request_id == "a"]
    assert [array.tolist() for array in recent if array is not None] == [[2, 3], [3, drawn[0]], drawn[:2]]
    assert collected["a"].token_ids == drawn


def test_prompt_logprobs_are_asked_for_the_following_prompt_tokens() -> None:
    runner = FakeRunner(max_num_batched_tokens=3)
    params = Params(prompt_logprobs=1, max_tokens=2)
    collected = run_all(start(runner, make_request("a", [5, 6, 7, 8, 9], params=params)))
    targets = [step.requests[0].prompt_logprob_targets for step in runner.steps]
    assert [None if array is None else array.tolist() for array in targets] == [[6, 7, 8], [9, NO_TARGET], None]
    assert collected["a"].prompt_logprob_ids == [6, 7, 8, 9]


def test_prompt_logprobs_do_not_come_twice_after_a_preemption() -> None:
    runner = FakeRunner(num_pages=6, max_model_len=16)
    params = Params(prompt_logprobs=0, max_tokens=4)
    requests = [make_request("a", [1] * 7, max_tokens=4), make_request("b", [8, 9, 10, 11, 12, 13, 14], params=params)]
    engine = start(runner, *requests)
    collected = run_all(engine)
    assert engine.metrics().num_preemptions == 1
    assert collected["b"].prompt_logprob_ids == [9, 10, 11, 12, 13, 14]
    assert collected["b"].token_ids == expected_tokens(requests[1], 16)


def test_a_prompt_logprobs_request_neither_reads_nor_waits_for_the_cache() -> None:
    runner = FakeRunner()
    params = Params(prompt_logprobs=0, max_tokens=1)
    run_all(start(runner, make_request("a", [1] * 6), make_request("b", [1] * 6, params=params)))
    assert [row[:3] for row in rows(runner.steps[0])] == [("a", 0, 6), ("b", 0, 6)]
