"""Heads of requests: as long as any client's, and not without an end."""

from __future__ import annotations

import contextlib
import socket

import pytest

from jaxllm.server.head_limit import MAX_HEAD_BYTES
from tests.server.live import listening, read_until

PIECE = b"x" * 8000
END = b"\r\n\r\n"


@pytest.mark.parametrize("start_of_head", [b"GET /", b"GET /health HTTP/1.1\r\nA: ", b"GET /health HTTP/1.1\r\nA"])
def test_head_without_an_end_ends_the_connection(start, start_of_head) -> None:
    client = start(is_paced=False)
    with listening(client) as port, socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(start_of_head)
        with contextlib.suppress(ConnectionError):
            for _ in range(100 * MAX_HEAD_BYTES // len(PIECE)):
                connection.sendall(PIECE)
            pytest.fail("the server reads on and on")


def test_too_long_a_head_is_refused_with_the_reason(start) -> None:
    client = start(is_paced=False)
    with listening(client) as port, socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nA: " + b"x" * MAX_HEAD_BYTES)
        answer = read_until(connection, b"bytes.")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"The request's headers have more than 65536 bytes." in answer


def test_long_heads_are_served_one_after_another(start) -> None:
    client = start(is_paced=False)
    head = b"GET /health HTTP/1.1\r\nHost: x\r\n" + (b"A: " + PIECE + b"\r\n") * 5
    with listening(client) as port, socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for _ in range(5):
            connection.sendall(head)
            connection.sendall(b"\r\n")
            assert read_until(connection, END).startswith(b"HTTP/1.1 200 OK")
