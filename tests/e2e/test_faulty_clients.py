"""Clients that vanish, dawdle or come in crowds, against a real server: all others are served, all pages come back."""

from __future__ import annotations

import selectors
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.fault_server import AUTHORIZATION, LONG, MIB, NEEDS, complete, post, wait_until, watched
from tests.e2e.raw_client import RawClient, http_post
from tests.e2e.server_process import ServerProcess

pytestmark = NEEDS


@pytest.fixture(autouse=True)
def server(fault_server: ServerProcess) -> Iterator[ServerProcess]:
    """It goes on as before, and holds nothing, whatever a test did to it."""
    yield from watched(fault_server)


def stream_request(**fields: Any) -> bytes:
    return http_post("/v1/completions", LONG | {"stream": True} | fields, **AUTHORIZATION)


def test_200_streams_are_killed_midway(server: ServerProcess):
    num_aborted = server.metric("jaxllm:request_success_total", finished_reason="abort")
    with selectors.DefaultSelector() as selector:
        for index in range(200):
            client = RawClient(server.address)
            client.send(stream_request(n=1 + index % 2, temperature=1))
            selector.register(client, selectors.EVENT_READ, client)
        while selector.get_map():
            ready = selector.select(timeout=60)
            assert ready, f"{len(selector.get_map())} streams stand still"
            for key, _ in ready:
                client = key.data
                assert client.read(), f"a stream ended early: {client.received!r}"
                if client.received.count(b"data: ") >= 3:
                    selector.unregister(client)
                    (client.kill if client.fileno() % 2 else client.close)()
    server.wait_until_idle()
    killed = server.metric("jaxllm:request_success_total", finished_reason="abort") - num_aborted
    assert killed >= 100, "most can't have come to their end in the meantime"


def test_streams_that_wait_are_killed(server: ServerProcess):
    clients = [RawClient(server.address) for _ in range(64)]
    for index, client in enumerate(clients):
        client.send(stream_request() if index % 2 else http_post("/v1/completions", LONG, **AUTHORIZATION))
    wait_until(server, lambda: server.metric("jaxllm:num_requests_waiting") >= 32)
    for client in clients:
        client.kill()
    server.wait_until_idle()


def test_half_sent_requests_hold_nothing_up(server: ServerProcess):
    whole = stream_request()
    clients = [RawClient(server.address) for _ in range(200)]
    for index, client in enumerate(clients):
        client.send(whole[: index * len(whole) // len(clients)])
    complete(server)
    for client in clients:
        client.close()


def test_slow_readers_disturb_nobody(server: ServerProcess):
    wide = {"n": 8, "logprobs": 20, "return_token_ids": True, "temperature": 1}
    before = server.resident_bytes
    slow = [RawClient(server.address, receive_buffer=4096) for _ in range(12)]
    for client in slow:
        client.send(stream_request(**wide))
        client.read(1)
    must_stop = threading.Event()

    def trickle() -> None:
        while not must_stop.wait(0.1):
            for client in slow:
                client.read(1)

    reading = threading.Thread(target=trickle)
    reading.start()
    try:
        server.wait_until_idle()  # the engine is through although nobody has read
        for _ in range(3):
            complete(server)
        assert server.resident_bytes - before < 100 * MIB
    finally:
        must_stop.set()
        reading.join()
    slow[0].read_until(b"[DONE]")
    for client in slow:
        client.close()


def test_more_completions_than_slots_take_turns(server: ServerProcess):
    body = LONG | {"n": 24, "max_tokens": 110, "temperature": 1}
    answers = [post(server, "/v1/completions", body | {"seed": 5}) for _ in range(2)]
    assert answers[0]["usage"]["completion_tokens"] == 24 * 110
    texts = [[choice["text"] for choice in one["choices"]] for one in answers]
    assert texts[0] == texts[1]


def test_an_idle_server_uses_no_processor(server: ServerProcess):
    complete(server)
    time.sleep(0.2)
    before = server.cpu_seconds
    time.sleep(2)
    assert server.cpu_seconds - before <= 0.04


def test_memory_and_connections_stay_flat_over_2000_requests(server: ServerProcess):
    def serve(count: int) -> None:
        def client(index: int) -> None:
            with RawClient(server.address) as connection:
                for turn in range(count // 8):
                    body = {"prompt": f"{index} and {turn}", "max_tokens": 2, "stream": turn % 2 == 0}
                    connection.received = b""
                    connection.send(http_post("/v1/completions", body, **AUTHORIZATION))
                    if body["stream"]:
                        connection.read_until(b"0\r\n\r\n")
                    else:
                        assert connection.read_answer()[0] == 200

        threads = [threading.Thread(target=client, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    serve(480)
    memory, files = server.resident_bytes, server.num_open_files
    serve(2000)
    assert server.resident_bytes - memory < 8 * MIB
    assert server.num_open_files <= files + 8
