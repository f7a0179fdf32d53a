"""More clients than the engine has rows: the code of `benchmarks/serve_load.py`, with a tiny model and no clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import pytest

from benchmarks.serve_load import find_problems, mixed_requests, run_offline, run_served
from jaxllm.bench.serving_client import ServedRequest
from jaxllm.bench.throughput import ThroughputResult
from jaxllm.bench.workload import BenchmarkRequest
from tests.e2e.server_process import ServerProcess
from tests.integration.helpers import needs_glassllm, start_glassllm

pytestmark = needs_glassllm

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


def test_every_client_gets_its_offline_answer(requests_and_answers, server):
    requests, offline = requests_and_answers
    result = run_served(server, requests, num_clients=NUM_CLIENTS)
    assert find_problems(offline, result.served) == []
    values = result.as_json()
    assert (values["completed"], values["failed"]) == (NUM_REQUESTS, 0)
    assert values["total_output_tokens"] == offline.total_output_tokens
    assert values["max_concurrent_requests"] <= NUM_CLIENTS
    server.wait_until_idle()


def test_lost_and_different_answers_are_found(requests_and_answers):
    _, offline = requests_and_answers
    assert find_problems(offline, answers_of(offline)) == []
    lost, other_text, other_tokens, short, *rest = answers_of(offline)
    problems = find_problems(
        offline,
        [
            dataclasses.replace(lost, error="HTTP 503: full"),
            dataclasses.replace(other_text, texts=["?", *other_text.texts]),
            dataclasses.replace(other_tokens, token_ids=[*other_tokens.token_ids, 1]),
            dataclasses.replace(short, usage={"completion_tokens": 0}),
            *rest,
        ],
    )
    assert [problem.split(",")[0].split(" [")[0] for problem in problems] == [
        "request 0 was lost: HTTP 503: full",
        f"request 1: expected the text {other_text.text!r}".split(",")[0],
        "request 2: expected the tokens",
        f"request 3: expected a usage of {len(short.token_ids)} tokens",
    ]


def answers_of(offline: ThroughputResult) -> Sequence[ServedRequest]:
    """What a server would have brought that gives the same answers."""
    return [
        ServedRequest(
            request=None,
            start=0.0,
            texts=[output.outputs[0].text],
            token_ids=list(output.outputs[0].token_ids),
            usage={"completion_tokens": len(output.outputs[0].token_ids)},
        )
        for output in offline.outputs
    ]
