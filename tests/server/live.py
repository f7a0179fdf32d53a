"""A server on a socket of this machine, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxllm.server.listening import bind
from jaxllm.server.web_server import make_web_server
from tests.server.helpers import Client


@contextmanager
def listening(client: Client) -> Iterator[int]:
    """Serves the app on a free port."""
    config = dataclasses.replace(client.context.config, host="127.0.0.1", port=0)
    bound = bind(config)
    assert bound is not None
    loop = asyncio.new_event_loop()
    server = make_web_server(client.app, config)
    thread = threading.Thread(target=loop.run_until_complete, args=[server.serve([bound])])
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield bound.getsockname()[1]
    finally:
        loop.call_soon_threadsafe(server.stop)
        thread.join(60)
        assert not thread.is_alive()
        loop.close()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


def post(port: int, path: str, body: Any) -> socket.socket:
    """A connection on which a request was sent, and nothing was read yet."""
    content = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    try:
        connection.sendall(head.encode() + content)
    except ConnectionError:
        connection.close()
        raise
    return connection


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    """What comes, up to a mark in it."""
    content = b""
    while mark not in content:
        part = connection.recv(65536)
        assert part, content
        content += part
    return content
