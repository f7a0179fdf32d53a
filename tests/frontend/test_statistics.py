"""What listeners hear of steps and finished requests."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from jaxllm.errors import EngineDeadError, ValidationError
from jaxllm.frontend.statistics import RequestStats, StepStats
from jaxllm.sampling_params import SamplingParams
from tests.frontend.helpers import EOS, ScriptedRunner, make_llm


@dataclass
class Recorder:
    steps: list[StepStats] = field(default_factory=list)
    requests: list[RequestStats] = field(default_factory=list)

    def on_step(self, stats: StepStats) -> None:
        self.steps.append(stats)

    def on_finished(self, stats: RequestStats) -> None:
        self.requests.append(stats)


def listen(llm):
    recorder = Recorder()
    llm._frontend.listeners.append(recorder)
    return recorder


def column(rows, name):
    return [getattr(row, name) for row in rows]


def test_each_step_is_told_once():
    llm = make_llm()
    recorder = listen(llm)
    llm.generate(["abc", "x"], SamplingParams(max_tokens=30), use_tqdm=False)
    steps = recorder.steps
    assert column(steps, "num_tokens") == [4, 2, 2, 1]  # "x" ends with step 1, and step 2 was planned already
    assert column(steps, "num_prompt_tokens") == [4, 0, 0, 0]
    assert column(steps, "num_generation_tokens") == [2, 2, 1, 1]
    assert column(steps, "num_running") == [2, 1, 1, 0]
    assert column(steps, "num_waiting") == [0, 0, 0, 0]
    assert [len(step.times_to_first_token) for step in steps] == [2, 0, 0, 0]
    assert [len(step.inter_token_latencies) for step in steps] == [0, 2, 1, 1]
    assert steps[0].kv_cache_usage == 2 / 128
    assert all(step.total_seconds >= step.host_seconds > 0.0 for step in steps)


def test_metrics_and_steps_agree():
    llm = make_llm()
    recorder = listen(llm)
    llm.generate(["a" * 40, "a" * 40, "b"], SamplingParams(max_tokens=5, n=2, temperature=1.0), use_tqdm=False)
    metrics = llm.get_metrics()
    for name in ("num_prompt_tokens", "num_generation_tokens", "prefix_cache_queries", "prefix_cache_hits"):
        assert sum(column(recorder.steps, name)) == getattr(metrics, name)
    assert metrics.num_tokens_read == sum(column(recorder.steps, "num_tokens"))
    assert metrics.prefix_cache_hits > 0
    assert sum(column(recorder.steps, "wait_seconds")) == pytest.approx(metrics.wait_seconds)


def test_a_late_listener_hears_of_later_steps_only():
    llm = make_llm()
    llm.generate("abcdef", SamplingParams(), use_tqdm=False)
    recorder = listen(llm)
    llm.generate("ab", SamplingParams(), use_tqdm=False)
    assert column(recorder.steps, "num_prompt_tokens") == [2, 0, 0, 0]
    assert recorder.steps[0].schedule_seconds < llm.get_metrics().schedule_seconds


def test_compiles_since_the_start_are_told():
    compiles = [7]
    llm = make_llm(num_compiles=lambda: compiles[0])
    recorder = listen(llm)
    llm.generate("a", SamplingParams(), use_tqdm=False)
    assert set(column(recorder.steps, "num_compiles")) == {0}
    compiles[0] = 9
    llm.generate("a", SamplingParams(), use_tqdm=False)
    assert recorder.steps[-1].num_compiles == 2


def test_preemptions_are_told_of_steps_and_requests():
    runner = ScriptedRunner({"a" * 16: "b" * 40, "c" * 16: "d" * 40}, num_pages=5)
    llm = make_llm(runner=runner, enable_prefix_caching=False)
    recorder = listen(llm)
    llm.generate(["a" * 16, "c" * 16], SamplingParams(max_tokens=40), use_tqdm=False)
    assert sum(column(recorder.steps, "num_preemptions")) == llm.get_metrics().num_preemptions > 0
    assert sum(column(recorder.requests, "num_preemptions")) == llm.get_metrics().num_preemptions


def test_a_finished_request():
    llm = make_llm()
    recorder = listen(llm)
    llm.generate("abc", SamplingParams(max_tokens=9), use_tqdm=False)
    [request] = recorder.requests
    assert request.request_id == "0"
    assert (request.num_prompt_tokens, request.num_generation_tokens, request.num_cached_tokens) == (3, 4, 0)
    assert (request.n, request.max_tokens, request.finish_reasons) == (1, 9, ("stop",))
    assert request.first_scheduled_time is not None
    assert request.first_token_time is not None
    assert request.last_token_time is not None
    assert (
        request.arrival_time
        <= request.first_scheduled_time
        <= request.first_token_time
        <= request.last_token_time
        <= request.finished_time
    )


def test_a_cached_prompt_is_told():
    llm = make_llm()
    recorder = listen(llm)
    for _ in range(2):
        llm.generate("a" * 33, SamplingParams(max_tokens=2), use_tqdm=False)
    assert column(recorder.requests, "num_cached_tokens") == [0, 32]


def test_each_completion_has_its_reason():
    llm = make_llm({"x": "SEED"})
    recorder = listen(llm)
    llm.generate("x", SamplingParams(n=2, seed=5, max_tokens=2), use_tqdm=False)
    assert recorder.requests[0].finish_reasons == ("stop", "length")  # seed 5 writes "5", the other three digits


def test_a_stop_string_an_abort_and_a_caller_who_leaves():
    llm = make_llm()
    recorder = listen(llm)
    llm.generate("abc", SamplingParams(stop="b"), use_tqdm=False)
    stream = llm.generate("abcdef", SamplingParams(), stream=True)
    next(stream)
    llm.abort("1")
    list(stream)
    stream = llm.generate("abcdef", SamplingParams(), stream=True)
    next(stream)
    stream.close()
    assert column(recorder.requests, "finish_reasons") == [("stop",), ("abort",), ("abort",)]
    assert column(recorder.requests, "num_generation_tokens") == [2, 1, 1]


def test_a_request_that_never_got_its_turn():
    llm = make_llm(runner=ScriptedRunner(max_num_seqs=1))
    recorder = listen(llm)
    stream = llm.generate(["abcdef", "waits"], SamplingParams(), stream=True)
    next(stream)
    stream.close()
    waited = recorder.requests[1]
    assert (waited.first_scheduled_time, waited.first_token_time, waited.last_token_time) == (None, None, None)
    assert (waited.queue_seconds, waited.prefill_seconds, waited.decode_seconds) == (None, None, None)
    assert waited.seconds_per_output_token is None


def test_a_refused_request_is_not_told(monkeypatch):
    llm = make_llm()
    recorder = listen(llm)
    with pytest.raises(ValidationError):
        llm.generate("", use_tqdm=False)
    monkeypatch.setattr(llm._built.engine, "add_request", lambda request: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        llm.generate("a", use_tqdm=False)
    assert recorder.requests == []


def test_requests_that_die_with_the_engine():
    def fail(step):
        raise RuntimeError("out of memory")

    llm = make_llm(runner=ScriptedRunner(on_dispatch=fail))
    recorder = listen(llm)
    with pytest.raises(EngineDeadError):
        llm.generate(["a", "b"], use_tqdm=False)
    assert column(recorder.requests, "finish_reasons") == [("error",), ("error",)]


def test_times_between_the_stations_of_a_request():
    stats = RequestStats(
        request_id="0",
        arrival_time=100.0,
        first_scheduled_time=101.0,
        first_token_time=103.0,
        last_token_time=107.0,
        finished_time=108.0,
        num_prompt_tokens=3,
        num_cached_tokens=0,
        num_generation_tokens=10,
        num_preemptions=0,
        n=2,
        max_tokens=16,
        finish_reasons=("stop", "stop"),
    )
    assert (stats.queue_seconds, stats.prefill_seconds, stats.decode_seconds) == (1.0, 2.0, 4.0)
    assert (stats.inference_seconds, stats.total_seconds, stats.seconds_per_output_token) == (6.0, 8.0, 1.0)


def test_the_last_token_counts_as_generated():
    llm = make_llm()
    recorder = listen(llm)
    [output] = llm.generate("abc", SamplingParams(max_tokens=9), use_tqdm=False)
    assert output.outputs[0].token_ids[-1] == EOS
    assert recorder.requests[0].num_generation_tokens == len(output.outputs[0].token_ids)


def test_a_listener_that_fails_is_told_no_more(caplog):
    class Broken(Recorder):
        def on_step(self, stats):
            super().on_step(stats)
            raise RuntimeError("full")

    llm = make_llm()
    broken = Broken()
    llm._frontend.listeners.append(broken)
    recorder = listen(llm)
    [output] = llm.generate("abc", SamplingParams(), use_tqdm=False)
    assert output.outputs[0].text == "abc"
    assert (len(broken.steps), len(recorder.steps)) == (1, 4)
    assert "failed; it hears no more statistics" in caplog.text
