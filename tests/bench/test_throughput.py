from __future__ import annotations

from typing import Any

from jaxllm.bench.throughput import ThroughputResult, run_throughput
from jaxllm.bench.workload import BenchmarkRequest, BenchmarkSampling
from tests.bench.helpers import FakeLLM

REQUESTS = [
    BenchmarkRequest(prompt_token_ids=[1, 2, 3], output_len=4),
    BenchmarkRequest(prompt_token_ids=[1, 2], output_len=6),
]


def run(llm: Any, sampling: BenchmarkSampling) -> ThroughputResult:
    return run_throughput(llm, REQUESTS, sampling, model_id="m", use_tqdm=False)


def test_all_requests_run_in_one_call() -> None:
    llm = FakeLLM()
    run(llm, BenchmarkSampling())
    [call] = llm.calls
    assert call["prompts"] == [{"prompt_token_ids": [1, 2, 3]}, {"prompt_token_ids": [1, 2]}]
    assert [params.max_tokens for params in call["params"]] == [4, 6]
    assert (call["use_tqdm"], call["stream"]) == (False, False)


def test_counts_prompts_once_and_the_tokens_of_every_completion() -> None:
    result = run(FakeLLM(), BenchmarkSampling(n=2))
    assert (result.num_requests, result.total_input_tokens, result.total_output_tokens) == (2, 5, 20)
    assert [len(output.outputs) for output in result.outputs] == [2, 2]


def test_json_has_vllm_keys_and_output_rate() -> None:
    result = ThroughputResult(
        model_id="m", elapsed_time=2.0, num_requests=4, total_input_tokens=10, total_output_tokens=30
    )
    assert result.as_json() == {
        "model_id": "m",
        "elapsed_time": 2.0,
        "num_requests": 4,
        "total_num_tokens": 40,
        "requests_per_second": 2.0,
        "tokens_per_second": 20.0,
        "total_input_tokens": 10,
        "total_output_tokens": 30,
        "output_tokens_per_second": 15.0,
    }


def test_summary_gives_the_rates() -> None:
    result = ThroughputResult(
        model_id="m", elapsed_time=2.0, num_requests=4, total_input_tokens=10, total_output_tokens=30
    )
    assert result.summary() == (
        "Throughput: 2.00 requests/s, 20.00 total tokens/s, 15.00 output tokens/s\n"
        "10 prompt and 30 output tokens in 2.00 s"
    )
