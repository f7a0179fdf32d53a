"""More clients than the engine has rows: the code of `benchmarks/serve_load.py`, with a tiny model and no clock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.serve_load import Round, find_problems, mixed_requests, run_offline, run_served
from jaxllm.bench.serving_client import ServedRequest
from jaxllm.bench.serving_requests import ServingRequest
from jaxllm.bench.serving_result import ServingReport, ServingResult
from jaxllm.bench.throughput import ThroughputResult
from jaxllm.bench.workload import BenchmarkRequest
from jaxllm.outputs import CompletionOutput, RequestOutput
from tests.e2e.server_process import ServerProcess
from tests.integration.helpers import needs_glassllm, start_glassllm

NUM_REQUESTS = 300
NUM_CLIENTS = 64


@pytest.fixture(scope="module")
def requests_and_answers() -> tuple[list[BenchmarkRequest], ThroughputResult]:
    """Prompts and answers of 1 to 46 tokens, and what the engine answers offline."""
    with start_glassllm() as llm:
        requests = mixed_requests(NUM_REQUESTS, vocab_size=llm.vocab_size, seed=0, input_len=24, output_len=24)
        return requests, run_offline(llm, requests)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The same engine behind a server."""
    log_path = tmp_path_factory.mktemp("server") / "glassllm.log"
    limits = ("--max-num-seqs", "8", "--max-num-batched-tokens", "64")
    flags = ("--dtype", "float32", "--device", "cpu", "--disable-uvicorn-access-log")
    with ServerProcess("glassllm-en", log_path, *limits, *flags) as started:
        yield started


@needs_glassllm
def test_every_client_gets_its_offline_answer(requests_and_answers, server):
    requests, offline = requests_and_answers
    result = run_served(server, requests, num_clients=NUM_CLIENTS)
    assert find_problems(offline, result.served) == []
    values = result.as_json()
    assert (values["completed"], values["failed"]) == (NUM_REQUESTS, 0)
    assert values["total_output_tokens"] == offline.total_output_tokens
    assert 8 < values["max_concurrent_requests"] <= NUM_CLIENTS
    server.wait_until_idle()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"error": "HTTP 503: full"}, "request 0 was lost: HTTP 503: full"),
        ({"texts": ["a", "c"]}, "request 0: expected the text 'ab', got 'ac'"),
        ({"token_ids": [1, 3]}, "request 0: expected the tokens [1, 2], got [1, 3]"),
        ({"usage": {"completion_tokens": 3}}, "request 0: expected a usage of 2 tokens, got 3"),
        ({"usage": None}, "request 0: expected a usage of 2 tokens, got None"),
    ],
)
def test_lost_and_different_answers_are_found(change, problem):
    completion = CompletionOutput(index=0, text="ab", token_ids=[1, 2], finish_reason="length")
    output = RequestOutput(request_id="0", prompt=None, prompt_token_ids=[7], outputs=[completion], finished=True)
    offline = ThroughputResult(
        model_id="m", elapsed_time=1.0, num_requests=1, total_input_tokens=1, total_output_tokens=2, outputs=[output]
    )
    request = ServingRequest(prompt=[7], prompt_len=1, output_len=2)
    same = {"texts": ["a", "b"], "token_ids": [1, 2], "usage": {"completion_tokens": 2}}
    served = ServedRequest(request=request, start=0.0, **(same | change))
    assert find_problems(offline, [served]) == ([] if problem is None else [problem])


@pytest.mark.parametrize(("offline_cpu_seconds", "is_starved"), [(20.0, False), (19.5, False), (10.0, True)])
def test_offline_run_that_other_work_held_up_is_told(offline_cpu_seconds, is_starved):
    offline = ThroughputResult(
        model_id="m", elapsed_time=10.0, num_requests=1, total_input_tokens=1, total_output_tokens=2
    )
    served = ServingResult(served=[], duration=5.0, report=ServingReport(), setup={})
    one = Round(offline=offline, served=served, offline_cpu_seconds=offline_cpu_seconds, served_cpu_seconds=10.0)
    assert (one.ratio, one.cores) == (2.0, (offline_cpu_seconds / 10, 2.0))
    assert one.is_offline_starved is is_starved
