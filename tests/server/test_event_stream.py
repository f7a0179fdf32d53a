from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from jaxllm.errors import EngineDeadError, ValidationError
from jaxllm.server.event_stream import EventStream


class Connection:
    """The two ends of an ASGI connection."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.is_gone = asyncio.Event()

    async def receive(self) -> Any:
        await self.is_gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def answer(events: AsyncGenerator[bytes], connection: Connection, **options: Any) -> None:
    async with asyncio.timeout(60):
        await EventStream(events, **options)({"type": "http"}, connection.receive, connection.send)


def test_events_are_sent_one_by_one_and_done_at_the_end() -> None:
    async def events() -> AsyncGenerator[bytes]:
        yield b"data: 1\n\n"
        yield b"data: 2\n\n"

    async def main() -> None:
        connection = Connection()
        await answer(events(), connection)
        start, *bodies = connection.sent
        assert (start["type"], start["status"]) == ("http.response.start", 200)
        assert [message["body"] for message in bodies] == [
            b"data: 1\n\n",
            b"data: 2\n\n",
            b"data: [DONE]\n\n",
            b"",
        ]
        assert [message["more_body"] for message in bodies] == [True, True, True, False]

    asyncio.run(main())


def test_error_before_the_first_event_is_the_callers() -> None:
    async def events() -> AsyncGenerator[bytes]:
        raise ValidationError("wrong", parameter="n")
        yield b""

    async def main() -> None:
        connection = Connection()
        with pytest.raises(ValidationError, match="wrong"):
            await answer(events(), connection)
        assert connection.sent == []

    asyncio.run(main())


@pytest.mark.parametrize("error", [EngineDeadError("dead"), RuntimeError("unforeseen")])
def test_later_error_becomes_the_last_event(error) -> None:
    async def events() -> AsyncGenerator[bytes]:
        yield b"data: 1\n\n"
        raise error

    async def main() -> None:
        connection = Connection()
        await answer(events(), connection)
        one, told, done = connection.body.split(b"\n\n")[:3]
        assert (one, done) == (b"data: 1", b"data: [DONE]")
        assert told.startswith(b'data: {"error": {"message": ')
        assert b"unforeseen" not in told

    asyncio.run(main())


def test_generator_is_closed_when_the_client_goes() -> None:
    closed = []

    async def events() -> AsyncGenerator[bytes]:
        try:
            yield b"data: 1\n\n"
            await asyncio.sleep(60)
        finally:
            closed.append(True)

    async def main() -> None:
        connection = Connection()
        task = asyncio.create_task(answer(events(), connection))
        while not connection.sent:
            await asyncio.sleep(0)
        connection.is_gone.set()
        await task
        assert closed == [True]

    asyncio.run(main())


def test_silent_stream_sends_comments() -> None:
    async def main() -> None:
        connection = Connection()

        async def events() -> AsyncGenerator[bytes]:
            while connection.body.count(b": keep-alive\n\n") < 2:
                await asyncio.sleep(0.001)
            yield b"data: 1\n\n"

        await answer(events(), connection, keep_alive_interval=0.005)
        assert connection.sent[0]["type"] == "http.response.start"
        assert connection.body.replace(b": keep-alive\n\n", b"") == b"data: 1\n\ndata: [DONE]\n\n"

    asyncio.run(main())


def test_error_after_a_comment_is_an_event() -> None:
    async def main() -> None:
        connection = Connection()

        async def events() -> AsyncGenerator[bytes]:
            while not connection.sent:
                await asyncio.sleep(0.001)
            raise ValidationError("wrong", parameter="n")
            yield b""

        await answer(events(), connection, keep_alive_interval=0.005)
        assert b'"message": "wrong"' in connection.body
        assert connection.body.endswith(b"data: [DONE]\n\n")

    asyncio.run(main())
