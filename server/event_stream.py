"""Answers as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from jaxllm.errors import JaxLLMError
from jaxllm.server.disconnect import ClientGoneError, while_connected
from jaxllm.server.errors import describe_error

_logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
_KEEP_ALIVE = b": keep-alive\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStream(Response):
    """Sends what a generator of encoded events gives, and `[DONE]`; closes the generator when the client goes.

    Nothing is sent before the first event (or the first keep-alive comment), so an error up to there is an ordinary
    error answer. A later one becomes the last event.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], *, keep_alive_interval: float = 0.0) -> None:
        self.status_code = 200
        self.background = None
        self.raw_headers = list(_HEADERS)
        self._events = events
        self._keep_alive_interval = keep_alive_interval

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientGoneError):
            await while_connected(receive, self._send_all(_EventSender(send, self.raw_headers)))

    async def _send_all(self, sender: _EventSender) -> None:
        keep_alive = None
        if self._keep_alive_interval:
            keep_alive = asyncio.ensure_future(sender.keep_alive(self._keep_alive_interval))
        try:
            async with aclosing(self._events):
                async for event in self._events:
                    await sender.send(event)
        except Exception as error:
            if not sender.has_started:
                raise
            if not isinstance(error, JaxLLMError):
                _logger.exception("A stream failed")
            await sender.send(encode_error(error))
        finally:
            if keep_alive is not None:
                keep_alive.cancel()
        await sender.finish()


class _EventSender:
    """The sending side of one stream."""

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        self._send = send
        self._headers = headers
        self._lock = asyncio.Lock()
        self._last_time = time.monotonic()
        self.has_started = False

    async def send(self, event: bytes) -> None:
        """Sends one event, or several at once."""
        async with self._lock:
            if not self.has_started:
                self.has_started = True
                await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
            await self._send({"type": "http.response.body", "body": event, "more_body": True})
            self._last_time = time.monotonic()

    async def finish(self) -> None:
        """Sends the end."""
        await self.send(DONE)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def keep_alive(self, interval: float) -> None:
        """Sends a comment whenever nothing was sent for that long; proxies close silent connections."""
        while True:
            silence = time.monotonic() - self._last_time
            if silence >= interval:
                await self.send(_KEEP_ALIVE)
            else:
                await asyncio.sleep(interval - silence)


def encode_error(error: BaseException) -> bytes:
    """The event that tells of an error."""
    _, body = describe_error(error)
    return b"data: " + json.dumps(body).encode() + b"\n\n"
