"""The server that misbehaving clients meet, and how they ask it."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.raw_client import RawClient
from tests.e2e.server_process import ServerProcess
from tests.integration.helpers import needs_glassllm

NEEDS = [
    needs_glassllm,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at the server's process through /proc, which is Linux's"),
]
KEYS = ("key-one", "key-two")
AUTHORIZATION = {"Authorization": f"Bearer {KEYS[1]}"}
ENGINE = ("--dtype", "float32", "--device", "cpu", "--max-num-seqs", "8", "--max-num-batched-tokens", "64")
OPTIONS = (*ENGINE, "--public-metrics", "--uvicorn-log-level", "warning", "--api-key", *KEYS)
LONG = {"prompt": "Once upon a time", "max_tokens": 100, "ignore_eos": True, "temperature": 0}
MIB = 2**20


def watched(server: ServerProcess) -> Iterator[ServerProcess]:
    """For a fixture: checks after the test that the server answers as before it and holds nothing."""
    expected = complete(server)
    yield server
    assert complete(server) == expected
    server.wait_until_idle()
    assert server.status("/health") == 200
    assert "Traceback" not in server.log


def wait_until(server: ServerProcess, condition: Callable[[], bool]) -> None:
    """Asks again and again; fails, with the server's log, after a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"it never came true; the log:\n{server.log}"
        time.sleep(0.005)


def post(server: ServerProcess, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The JSON of an answer that must be good."""
    request = urllib.request.Request(
        server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json", **AUTHORIZATION}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def complete(server: ServerProcess) -> str:
    """The text that goes on with `LONG`."""
    [choice] = post(server, "/v1/completions", LONG)["choices"]
    return str(choice["text"])


def answer(server: ServerProcess, data: bytes) -> tuple[int, Any]:
    """Status and JSON of what comes for raw bytes."""
    with RawClient(server.address) as client:
        client.send(data)
        status, body = client.read_answer()
    return status, json.loads(body)
