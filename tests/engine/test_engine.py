import numpy as np
import pytest

from jaxllm.engine import Engine
from jaxllm.errors import EngineDeadError, ValidationError
from jaxllm.steps import ScheduledStep, StepResult
from tests.engine.helpers import EOS, Collected, FakeHandle, FakeRunner, Params, expected_tokens, make_request, run_all


def first_token(prompt: list[int], **options) -> int:
    return expected_tokens(make_request("r", prompt, max_tokens=1, **options), 64)[0]


class BrokenRunner(FakeRunner):
    """Fails where it is told to."""

    breaks: str = ""

    def dispatch(self, step: ScheduledStep) -> FakeHandle:
        if self.breaks == "dispatch":
            raise RuntimeError("no memory")
        return super().dispatch(step)

    def run_until(self, step_id: int) -> StepResult:
        if self.breaks == "result":
            raise RuntimeError("a wrong address")
        if self.breaks == "interrupt":
            self.breaks = ""
            raise KeyboardInterrupt
        return super().run_until(step_id)


def test_dispatches_the_next_step_before_reading_the_last() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    engine.add_request(make_request("a", [1, 2], max_tokens=3))
    assert engine.step() == []
    assert (len(runner.steps), len(runner.results)) == (1, 0)
    (output,) = engine.step()
    assert (len(runner.steps), len(runner.results)) == (2, 1)
    assert output.new_token_ids == (first_token([1, 2]),)
    assert output.finish_reason is None


def test_stops_dispatching_at_max_tokens() -> None:
    runner = FakeRunner()
    request = make_request("a", [1, 2], max_tokens=3)
    collected = run_all(Engine(runner), [request])
    assert len(runner.steps) == 3
    assert collected["a"] == Collected(token_ids=expected_tokens(request, 64), finish_reason="length")


def test_stops_dispatching_at_max_model_len() -> None:
    runner = FakeRunner(max_model_len=8)
    collected = run_all(Engine(runner), [make_request("a", [1, 2, 3, 4, 5, 6], max_tokens=100)])
    assert len(collected["a"].token_ids) == 2
    assert collected["a"].finish_reason == "length"
    assert len(runner.steps) == 2


def test_eos_ends_a_request_and_its_surplus_token_is_dropped() -> None:
    runner = FakeRunner()
    eos = first_token([1, 2])
    collected = run_all(engine := Engine(runner), [make_request("a", [1, 2], eos_token_ids=(eos,))])
    assert collected["a"] == Collected(token_ids=[eos], finish_reason="stop")
    assert len(runner.steps) == 2
    assert engine.step() == []
    assert engine.metrics().kv_cache_usage == 0


def test_a_stop_token_is_the_stop_reason() -> None:
    stop = first_token([1, 2])
    collected = run_all(Engine(FakeRunner()), [make_request("a", [1, 2], params=Params(stop_token_ids=(stop,)))])
    assert collected["a"] == Collected(token_ids=[stop], finish_reason="stop", stop_reason=stop)


def test_eos_is_checked_before_stop_tokens() -> None:
    stop = first_token([1, 2])
    request = make_request("a", [1, 2], eos_token_ids=(stop,), params=Params(stop_token_ids=(stop,)))
    assert run_all(Engine(FakeRunner()), [request])["a"].stop_reason is None


def test_stop_is_checked_before_length() -> None:
    eos = first_token([1, 2])
    request = make_request("a", [1, 2], eos_token_ids=(eos,), max_tokens=1)
    assert run_all(Engine(FakeRunner()), [request])["a"].finish_reason == "stop"


def test_ignore_eos_goes_on() -> None:
    eos = first_token([1, 2])
    request = make_request("a", [1, 2], eos_token_ids=(eos,), params=Params(ignore_eos=True, max_tokens=5))
    collected = run_all(Engine(FakeRunner()), [request])
    assert len(collected["a"].token_ids) == 5
    assert collected["a"].finish_reason == "length"


def test_min_tokens_holds_stops_back() -> None:
    class Stubborn(FakeRunner):
        """Draws EOS always, as if min_tokens banned nothing."""

        def run_until(self, step_id: int) -> StepResult:
            result = super().run_until(step_id)
            return StepResult(step_id=step_id, token_ids=dict.fromkeys(result.token_ids, EOS))

    request = make_request("a", [1, 2], eos_token_ids=(EOS,), params=Params(min_tokens=3, max_tokens=9))
    collected = run_all(Engine(Stubborn()), [request])
    assert collected["a"] == Collected(token_ids=[EOS, EOS, EOS], finish_reason="stop")


def test_hands_out_logprobs_with_their_tokens() -> None:
    request = make_request("a", [1, 2, 3], params=Params(logprobs=2, prompt_logprobs=1, max_tokens=3))
    collected = run_all(Engine(FakeRunner()), [request])
    assert collected["a"].logprob_ids == collected["a"].token_ids == expected_tokens(request, 64)
    assert collected["a"].prompt_logprob_ids == [2, 3]


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
@pytest.mark.parametrize("num_pages", [17, 49])
@pytest.mark.parametrize("enable_prefix_caching", [True, False])
def test_tokens_depend_on_nothing_but_the_request(
    chunk_size: int | None, num_pages: int, enable_prefix_caching: bool
) -> None:
    requests = [
        make_request(str(index), [1, 2, 3, 4, 5 + index % 2, 6], seed=index, max_tokens=30) for index in range(6)
    ]
    engine = Engine(FakeRunner(num_pages=num_pages), chunk_size=chunk_size, enable_prefix_caching=enable_prefix_caching)
    collected = run_all(engine, requests)
    assert {name: entry.token_ids for name, entry in collected.items()} == {
        request.request_id: expected_tokens(request, 64) for request in requests
    }
    assert (engine.metrics().num_preemptions > 0) == (num_pages == 17)


def test_abort_frees_everything_at_once_and_says_nothing_more() -> None:
    engine = Engine(FakeRunner())
    engine.add_request(make_request("a", [1, 2]))
    engine.add_request(make_request("b", [3, 4]))
    engine.step()
    engine.abort(["a", "b", "unknown"])
    metrics = engine.metrics()
    assert (metrics.num_running, metrics.num_waiting, metrics.kv_cache_usage) == (0, 0, 0)
    assert metrics.finished_by_reason == {"abort": 2}
    assert not engine.has_unfinished_requests()
    assert engine.step() == []


def test_abort_of_a_waiting_request() -> None:
    engine = Engine(FakeRunner(max_num_seqs=1))
    requests = [make_request(name, [1, 2]) for name in "abc"]
    for request in requests:
        engine.add_request(request)
    engine.step()
    engine.abort(["b"])
    assert engine.metrics().num_waiting == 1
    collected = run_all(engine)
    assert sorted(collected) == ["a", "c"]


def test_an_id_can_be_used_again_while_its_surplus_token_is_in_flight() -> None:
    engine = Engine(FakeRunner())
    engine.add_request(make_request("a", [1, 2]))
    engine.step()
    engine.abort(["a"])
    second = make_request("a", [3, 4, 5])
    assert run_all(engine, [second])["a"].token_ids == expected_tokens(second, 64)


def test_a_stop_string_counts_as_stop() -> None:
    engine = Engine(FakeRunner())
    engine.add_request(make_request("a", [1, 2]))
    engine.step()
    engine.step()
    engine.finish("a")
    engine.finish("a")
    assert engine.metrics().finished_by_reason == {"stop": 1}
    assert run_all(engine) == {}


def test_an_interrupt_while_waiting_loses_nothing() -> None:
    runner = BrokenRunner()
    engine = Engine(runner)
    request = make_request("a", [1, 2])
    engine.add_request(request)
    engine.step()
    runner.breaks = "interrupt"
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    assert run_all(engine)["a"].token_ids == expected_tokens(request, 64)


@pytest.mark.parametrize(("breaks", "message"), [("dispatch", "no memory"), ("result", "a wrong address")])
def test_a_failing_step_ends_the_engine(breaks: str, message: str) -> None:
    runner = BrokenRunner()
    engine = Engine(runner)
    engine.add_request(make_request("a", [1, 2]))
    runner.breaks = breaks
    with pytest.raises(EngineDeadError, match=f"failed while it ran a step: RuntimeError.*{message}"):
        run_all(engine)
    with pytest.raises(EngineDeadError, match=message):
        engine.step()
    with pytest.raises(EngineDeadError, match=message):
        engine.add_request(make_request("b", [1]))
    assert not engine.has_unfinished_requests()
    assert engine.metrics().finished_by_reason == {"error": 1}
    engine.abort(["a"])


def test_shutdown_frees_the_device_once() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    engine.add_request(make_request("a", [1, 2]))
    engine.step()
    engine.shutdown()
    engine.shutdown()
    assert runner.is_shut_down
    assert engine.metrics().finished_by_reason == {"abort": 1}
    with pytest.raises(EngineDeadError, match="the engine was shut down"):
        engine.step()


def test_reset_prefix_cache_waits_for_running_requests() -> None:
    engine = Engine(FakeRunner())
    engine.add_request(make_request("a", [1] * 9))
    engine.step()
    assert not engine.reset_prefix_cache()
    run_all(engine)
    assert engine.reset_prefix_cache()
    assert run_all(engine, [make_request("b", [1] * 9)])["b"].num_cached_tokens == 0


def test_counts_what_happened() -> None:
    engine = Engine(FakeRunner())
    run_all(engine, [make_request("a", [1] * 9, max_tokens=2)])
    run_all(engine, [make_request("b", [1] * 10, max_tokens=3)])
    metrics = engine.metrics()
    assert metrics.num_steps == 5
    assert metrics.num_scheduled_tokens == 9 + 1 + 2 + 1 + 1
    assert metrics.num_prompt_tokens == 19
    assert metrics.num_generation_tokens == 5
    assert (metrics.prefix_cache_queries, metrics.prefix_cache_hits) == (19, 8)
    assert metrics.finished_by_reason == {"length": 2}


def test_gauges_follow_the_requests() -> None:
    engine = Engine(FakeRunner(num_pages=33, max_num_seqs=1))
    engine.add_request(make_request("a", [1] * 8))
    engine.add_request(make_request("b", [2] * 8))
    engine.step()
    metrics = engine.metrics()
    assert (metrics.num_running, metrics.num_waiting, metrics.kv_cache_usage) == (1, 1, 2 / 32)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "at least one token, got an empty one"),
        ([1.5], r"flat sequence of integer token ids, got shape \(1,\) of float64"),
        ([[1, 2]], r"flat sequence of integer token ids, got shape \(1, 2\)"),
        (["a"], "flat sequence of integer token ids"),
        ([1] * 64, "fewer than max_model_len=64 tokens, got 64"),
        ([1, 50], "token ids from 0 to 49, got 50"),
        ([1, -3], "token ids from 0 to 49, got -3"),
        ([1, 2**40], "token ids from 0 to 49, got 1099511627776"),
    ],
)
def test_refuses_wrong_prompts(prompt: list[int], message: str) -> None:
    engine = Engine(FakeRunner())
    with pytest.raises(ValidationError, match=message):
        engine.add_request(make_request("a", prompt))
    assert not engine.has_unfinished_requests()


def test_accepts_arrays_and_does_not_keep_them() -> None:
    prompt = np.array([1, 2, 3], np.int32)
    engine = Engine(FakeRunner())
    request = make_request("a", prompt)
    expected = expected_tokens(request, 64)
    engine.add_request(request)
    prompt[:] = 9
    assert run_all(engine)["a"].token_ids == expected


def test_refuses_an_id_in_use() -> None:
    engine = Engine(FakeRunner())
    engine.add_request(make_request("a", [1]))
    with pytest.raises(ValidationError, match="request_id 'a' belongs to an unfinished request already"):
        engine.add_request(make_request("a", [1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduling_policy": "lifo"}, "expected one of fcfs, priority, got 'lifo'"),
        ({"chunk_size": 0}, "chunk_size: expected at least 1 token, got 0"),
    ],
)
def test_refuses_wrong_settings(options: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Engine(FakeRunner(), **options)


def test_refuses_a_pool_that_can_not_hold_one_request() -> None:
    with pytest.raises(ValidationError, match="one sequence of at most 60 tokens, got max_model_len=64"):
        Engine(FakeRunner(num_pages=16))
