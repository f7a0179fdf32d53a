from __future__ import annotations

import contextlib
import logging

import pytest

from tests.frontend.helpers import Gate
from tests.server.helpers import chat_body
from tests.server.live import listening, post, read_until, wait_until

LONG = {"max_tokens": 60, "min_tokens": 60, "ignore_eos": True}


def is_idle(client) -> bool:
    metrics = client.llm.get_metrics()
    return (
        client.context.admission.num_requests == 0
        and client.llm.num_unfinished == 0
        and (metrics.num_running, metrics.num_waiting, metrics.kv_cache_usage) == (0, 0, 0.0)
    )


@pytest.fixture
def gated(start):
    """A server whose steps stand still until the gate opens."""
    client = start(is_paced=False)
    gate = client.llm._built.runner.on_dispatch = Gate()
    yield client, gate
    gate.open()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": ["hi", "yo"], "n": 2, **LONG}),
        ("/v1/chat/completions", chat_body("hi", max_tokens=40, n=3)),
    ],
)
def test_request_ends_with_its_client(gated, caplog, path, body, stream) -> None:
    client, gate = gated
    with listening(client) as port, caplog.at_level(logging.INFO, "jaxllm"):
        connection = post(port, path, {**body, "stream": stream})
        gate.wait_for_step()
        for _ in range(2):  # the engine is one step ahead of what it has read
            gate.pass_one()
            gate.wait_for_step()
        if stream:
            gate.pass_one()
            read_until(connection, b"data: ")
            gate.wait_for_step()
        assert client.llm.get_metrics().kv_cache_usage > 0
        connection.close()
        wait_until(lambda: client.context.admission.num_requests == 0)
        num_steps = len(gate.steps)
        gate.open()
        wait_until(lambda: is_idle(client))
        # The step that stood at the gate, and the one after it at most, were planned before the engine heard.
        assert len(gate.steps) - num_steps <= 2
        assert any("was aborted: its client is gone" in message for message in caplog.messages)


def test_client_that_goes_before_its_request_runs_leaves_nothing(gated) -> None:
    client, gate = gated
    with listening(client) as port:
        running = post(port, "/v1/completions", {"prompt": "hi", **LONG})
        gate.wait_for_step()
        waiting = post(port, "/v1/completions", {"prompt": "yo", **LONG})
        wait_until(lambda: client.context.admission.num_requests == 2)
        waiting.close()
        running.close()
        wait_until(lambda: client.context.admission.num_requests == 0)
        gate.open()
        wait_until(lambda: is_idle(client))


def test_many_clients_killed_in_midstream_leave_nothing(start) -> None:
    client = start(is_paced=False)
    with listening(client) as port:
        for _ in range(3):
            connections = [post(port, "/v1/completions", {"prompt": "hi", "stream": True, **LONG}) for _ in range(20)]
            read_until(connections[0], b"data: ")
            for connection in connections:
                connection.close()
        wait_until(lambda: is_idle(client))
        assert client.complete("hi")["choices"][0]["text"] == "hi"


def test_slow_reader_holds_up_nobody(start) -> None:
    client = start(is_paced=False)
    with listening(client) as port:
        slow = post(port, "/v1/completions", {"prompt": ["hi"] * 20, "stream": True, "logprobs": 4, **LONG})
        assert client.complete("yo")["choices"][0]["text"] == "yo"
        text = read_until(slow, b"[DONE]")
        assert text.count(b'"finish_reason":"length"') == 20
        slow.close()
        wait_until(lambda: is_idle(client))


def test_connection_is_kept_for_the_next_request(start) -> None:
    client = start(is_paced=False)
    with listening(client) as port:
        connection = post(port, "/v1/completions", {"prompt": "hi", "stream": True})
        read_until(connection, b"[DONE]\n\n\r\n0\r\n\r\n")
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
        connection.close()


def test_client_that_sends_too_much_hears_so(start) -> None:
    client = start(is_paced=False, config={"max_request_body_size": 2_000_000})
    with listening(client) as port:
        connection = post(port, "/v1/completions", {"prompt": "a" * 10_000_000})
        assert read_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 413 ")
        connection.close()


def test_client_that_sends_far_too_much_is_cut_off(start) -> None:
    client = start(is_paced=False, config={"max_request_body_size": 1000})
    with listening(client) as port:
        with contextlib.suppress(ConnectionError):
            connection = post(port, "/v1/completions", {"prompt": "a" * 10_000_000})
            connection.close()
        assert client.complete("hi")["choices"][0]["text"] == "hi"
