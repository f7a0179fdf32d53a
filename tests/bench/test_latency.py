from __future__ import annotations

from typing import Any

import pytest

from jaxllm.bench.latency import LatencyResult, run_latency
from jaxllm.bench.workload import BenchmarkRequest, BenchmarkSampling
from jaxllm.sampling_params import RequestOutputKind
from tests.bench.helpers import FakeLLM

REQUESTS = [BenchmarkRequest(prompt_token_ids=[1, 2], output_len=4) for _ in range(3)]


def run(llm: Any, num_iters_warmup: int = 2, num_iters: int = 5) -> LatencyResult:
    return run_latency(
        llm,
        REQUESTS,
        BenchmarkSampling(),
        model_id="m",
        num_iters_warmup=num_iters_warmup,
        num_iters=num_iters,
    )


def test_warm_up_calls_are_not_counted() -> None:
    llm = FakeLLM()
    result = run(llm)
    assert len(result.latencies) == 5
    assert [call["stream"] for call in llm.calls] == [False] * 7 + [True] * 5


def test_streamed_calls_time_first_tokens_and_gaps_of_each_request() -> None:
    result = run(FakeLLM())
    assert len(result.times_to_first_token) == 5 * 3
    assert len(result.inter_token_latencies) == 5 * 3 * 3


def test_streamed_calls_ask_for_deltas() -> None:
    llm = FakeLLM()
    run(llm, num_iters=1)
    assert {params.output_kind for params in llm.calls[-1]["params"]} == {RequestOutputKind.DELTA}


def test_json_has_vllm_keys_and_streaming_medians() -> None:
    result = LatencyResult(
        model_id="m", latencies=[1.0, 3.0], times_to_first_token=[0.5], inter_token_latencies=[0.01, 0.02, 0.03]
    )
    values = result.as_json()
    assert values.pop("percentiles") == pytest.approx(
        {"10": 1.2, "25": 1.5, "50": 2.0, "75": 2.5, "90": 2.8, "99": 2.98}
    )
    assert values == {
        "model_id": "m",
        "avg_latency": 2.0,
        "latencies": [1.0, 3.0],
        "median_ttft_ms": 500.0,
        "median_itl_ms": 20.0,
    }


def test_single_token_outputs_have_no_time_between_tokens() -> None:
    result = LatencyResult(model_id="m", latencies=[1.0], times_to_first_token=[0.5], inter_token_latencies=[])
    assert result.as_json()["median_itl_ms"] is None
    assert result.summary().splitlines()[-1] == "Median time to first token: 500.00 ms"
