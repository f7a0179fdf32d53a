from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.server.helpers import Client, start_client

REPLIES = {"hi": "hello", "<user>hi<assistant>": "hello there"}


@pytest.fixture
def start() -> Iterator[Callable[..., Client]]:
    """Starts servers, and ends their engines after the test."""
    clients: list[Client] = []

    def start_one(*arguments: Any, **options: Any) -> Client:
        clients.append(start_client(*arguments, **options))
        return clients[-1]

    yield start_one
    for client in clients:
        client.llm.shutdown()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """One server for the tests of a module that leave nothing behind."""
    shared = start_client(REPLIES)
    yield shared
    shared.llm.shutdown()
