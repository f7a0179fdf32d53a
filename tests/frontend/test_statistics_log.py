"""The line about the engine's work."""

from __future__ import annotations

import logging

import pytest

from jaxllm.errors import ValidationError
from jaxllm.frontend.statistics import StepStats
from jaxllm.frontend.statistics_log import StatisticsLog, log_interval
from tests.frontend.helpers import make_async_llm


def make_step(**fields):
    zeros = dict.fromkeys(StepStats.__dataclass_fields__, 0)
    return StepStats(**(zeros | {"times_to_first_token": (), "inter_token_latencies": ()} | fields))


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "jaxllm")

    def read():
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    return read


def test_a_line_per_interval_with_the_work_done_in_it(lines):
    now = [100.0]
    log = StatisticsLog(10.0, clock=lambda: now[0])
    step = make_step(
        num_prompt_tokens=20,
        num_generation_tokens=5,
        num_running=3,
        num_waiting=2,
        kv_cache_usage=0.125,
        prefix_cache_queries=20,
        prefix_cache_hits=5,
    )
    for now[0] in (100.0, 105.0):
        log.on_step(step)
    assert lines() == []
    now[0] = 110.0
    log.on_step(step)
    assert lines() == [
        "Avg prompt throughput: 6.0 tokens/s, Avg generation throughput: 1.5 tokens/s, Running: 3 reqs, Waiting: 2 "
        "reqs, KV cache usage: 12.5%, Prefix cache hit rate: 25.0%"
    ]
    now[0] = 120.0
    log.on_step(make_step(num_generation_tokens=5, num_preemptions=2))
    assert lines() == [
        "Avg prompt throughput: 0.0 tokens/s, Avg generation throughput: 0.5 tokens/s, Running: 0 reqs, Waiting: 0 "
        "reqs, KV cache usage: 0.0%, Prefix cache hit rate: 0.0%, Preemptions: 2"
    ]


def test_a_pause_does_not_count(lines):
    now = [0.0]
    log = StatisticsLog(10.0, clock=lambda: now[0])
    log.on_step(make_step(num_generation_tokens=1000))
    now[0] = 1000.0
    log.on_step(make_step(num_generation_tokens=10))
    now[0] = 1009.0
    log.on_step(make_step(num_generation_tokens=10))
    assert lines() == []
    now[0] = 1010.0
    log.on_step(make_step(num_generation_tokens=10))
    [line] = lines()
    assert "generation throughput: 3.0 tokens/s" in line


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, 10.0),
        ({"VLLM_LOG_STATS_INTERVAL": "5"}, 5.0),
        ({"VLLM_LOG_STATS_INTERVAL": "5", "JAXLLM_LOG_STATS_INTERVAL": "0.5"}, 0.5),
    ],
)
def test_interval_comes_from_the_environment(monkeypatch, variables, seconds):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert log_interval() == seconds


@pytest.mark.parametrize("value", ["0", "-1", "often", "inf", "nan"])
def test_wrong_interval(monkeypatch, value):
    monkeypatch.setenv("JAXLLM_LOG_STATS_INTERVAL", value)
    with pytest.raises(ValidationError, match=f"JAXLLM_LOG_STATS_INTERVAL must be a number .* above 0, got '{value}'"):
        log_interval()


@pytest.mark.parametrize(("is_disabled", "num_listeners"), [(True, 0), (False, 1)])
def test_engine_logs_unless_statistics_are_off(is_disabled, num_listeners):
    llm = make_async_llm(disable_log_stats=is_disabled)
    assert len(llm.listeners) == num_listeners
    llm.shutdown()
