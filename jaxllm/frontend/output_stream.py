"""The way of a request's outputs from the engine's thread to the event loop of its caller."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from jaxllm.errors import EngineDeadError, JaxLLMError
from jaxllm.frontend.open_requests import OpenRequest
from jaxllm.frontend.output_merge import merge_deltas


_MAX_WAITING = 32
"""Deltas that wait one by one: joining them on arrival, at each step, would slow the engine down."""


class OutputStream:
    """Keeps what its reader has not taken: of cumulative outputs the newest, of deltas all, soon joined into one."""

    def __init__(self, request: OpenRequest, loop: LoopWaker, *, is_delta: bool) -> None:
        self.request = request
        self.loop = loop
        self.is_ended = False
        """Whether the last output, or an error, was put in."""
        self._is_delta = is_delta
        self._waiting: list[Any] = []
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._reader: asyncio.Future[None] | None = None

    def put(self, output: Any) -> None:
        """Called by the engine's thread; the reader hears of it when `loop` wakes it."""
        with self._lock:
            if not self._is_delta:
                self._waiting.clear()
            elif len(self._waiting) == _MAX_WAITING:
                self._waiting = [merge_deltas(self._waiting)]
            self._waiting.append(output)
        self.is_ended = output.finished

    def fail(self, error: BaseException) -> None:
        """Ends the stream with an error, after the output that still waits."""
        self._error = error
        self.is_ended = True

    async def read(self) -> Any:
        """The next output, on the reader's own event loop."""
        while True:
            with self._lock:
                waiting, self._waiting = self._waiting, []
            if waiting:
                return merge_deltas(waiting)
            if self._error is not None:
                raise _for_one_reader(self._error)
            self._reader = self.loop.loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    def wake(self) -> None:
        """Lets the reader look again; called on its event loop."""
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class LoopWaker:
    """Wakes the readers of one event loop, with one call into it however many there are."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._streams: set[OutputStream] = set()
        self._lock = threading.Lock()

    def wake(self, streams: set[OutputStream]) -> bool:
        """Called by any thread; False when the loop is closed, and its readers are gone with it."""
        with self._lock:
            is_scheduled = bool(self._streams)
            self._streams |= streams
        if is_scheduled:
            return not self.loop.is_closed()
        try:
            self.loop.call_soon_threadsafe(self._wake_readers)
        except RuntimeError:
            return False
        return True

    def _wake_readers(self) -> None:
        with self._lock:
            streams, self._streams = self._streams, set()
        for stream in streams:
            stream.wake()


def _for_one_reader(error: BaseException) -> BaseException:
    """An exception of its own for each reader: a shared one would collect the tracebacks of all."""
    if not isinstance(error, EngineDeadError):
        return error
    own: JaxLLMError = EngineDeadError(*error.args)
    own.__cause__ = error.__cause__
    return own
