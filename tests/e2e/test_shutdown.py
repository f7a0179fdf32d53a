"""SIGTERM while a real engine is busy: every client hears how its request ended, and the status is 0."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fault_server import AUTHORIZATION, NEEDS, OPTIONS, wait_until
from tests.e2e.raw_client import RawClient, http_post
from tests.e2e.server_process import ServerProcess

pytestmark = NEEDS

NUM_CLIENTS = 4
N = 12
BODY = {"prompt": "Once upon a time", "n": N, "max_tokens": 100, "ignore_eos": True}


@pytest.fixture
def clients() -> Iterator[list[RawClient]]:
    """For connections that the test appends; they are closed."""
    opened: list[RawClient] = []
    yield opened
    for client in opened:
        client.close()


def num_unfinished(server: ServerProcess) -> float:
    return server.metric("jaxllm:num_requests_running") + server.metric("jaxllm:num_requests_waiting")


def terminate_under_load(server: ServerProcess, clients: list[RawClient]) -> None:
    """Sends SIGTERM while more is asked for than runs at once; every other client streams."""
    for index in range(NUM_CLIENTS):
        clients.append(RawClient(server.address))
        clients[-1].send(http_post("/v1/completions", BODY | {"stream": index % 2 == 0}, **AUTHORIZATION))
    most_without_the_last = N * (NUM_CLIENTS - 1)
    wait_until(server, lambda: num_unfinished(server) > most_without_the_last)
    server.signal(signal.SIGTERM)


def finish_reasons(client: RawClient, is_stream: bool) -> list[str]:
    """How the completions of one request ended; fails where the answer is cut off."""
    if not is_stream:
        status, body = client.read_answer()
        assert status == 200, body
        return [choice["finish_reason"] for choice in json.loads(body)["choices"]]
    client.read_until(b"data: [DONE]\n\n")
    lines = client.received.decode().splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    reasons = [choice["finish_reason"] for event in events for choice in event["choices"]]
    return [reason for reason in reasons if reason is not None]


@pytest.mark.parametrize(("patience", "reason"), [("60", "length"), ("0", "abort")])
def test_sigterm_under_load(clients: list[RawClient], tmp_path: Path, patience: str, reason: str) -> None:
    options = (*OPTIONS, "--shutdown-timeout", patience)
    with ServerProcess("glassllm-en", tmp_path / "server.log", *options) as server:
        terminate_under_load(server, clients)
        ends = [finish_reasons(client, is_stream=index % 2 == 0) for index, client in enumerate(clients)]
        assert server.wait() == 0
    assert ends == [[reason] * N] * NUM_CLIENTS
    assert "Traceback" not in server.log
