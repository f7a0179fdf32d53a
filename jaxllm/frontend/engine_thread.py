"""The thread that steps a frontend while requests run, and sleeps while none does."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from jaxllm.errors import EngineDeadError, EngineStalledError
from jaxllm.frontend.frontend import Frontend
from jaxllm.frontend.open_requests import OpenRequest, OpenRequests
from jaxllm.frontend.output_stream import LoopWaker, OutputStream
from jaxllm.frontend.request_maker import Prepared, PreparedRequest, Running
from jaxllm.sampling_params import RequestOutputKind

_logger = logging.getLogger(__name__)

_SHUT_DOWN = "the engine was shut down"
_STOP_SECONDS = 30.0
"""How long `stop` waits for a step that runs."""


class EngineThread:
    """Runs commands of other threads between steps, and hands out what each step brought.

    No caller waits for a step: commands go into a queue, outputs come back through streams.
    """

    def __init__(self, frontend: Frontend, *, stall_seconds: float) -> None:
        self.open_requests = OpenRequests()
        self.on_death: list[Callable[[BaseException], None]] = []
        self.error: EngineDeadError | None = None
        """Why nothing is served any more."""
        self._frontend = frontend
        self._stall_seconds = stall_seconds
        self._progress_time = time.monotonic()
        self._is_busy = False
        self._is_stopping = False
        self._commands: deque[Callable[[], None]] = deque()
        self._has_news = threading.Condition()
        self._outbox: deque[Any] = deque()
        self._streams: set[OutputStream] = set()
        self._running: dict[str, tuple[OutputStream, Running]] = {}
        self._wakers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopWaker] = weakref.WeakKeyDictionary()
        self._thread = threading.Thread(target=self._run, name="jaxllm-engine", daemon=True)
        self._thread.start()

    def add(self, prepared: Prepared, request: OpenRequest) -> OutputStream:
        """Queues a request; call this on the event loop that reads the stream."""
        loop = asyncio.get_running_loop()
        is_delta = isinstance(prepared, PreparedRequest) and prepared.params.output_kind is RequestOutputKind.DELTA
        with self._has_news:
            waker = self._wakers.setdefault(loop, LoopWaker(loop))
            stream = OutputStream(request, waker, is_delta=is_delta)
            self._queue(partial(self._add, prepared, stream))
            self._streams.add(stream)
        self.open_requests.count_prompt(request, len(prepared.prompt.token_ids))
        return stream

    def drop(self, stream: OutputStream) -> None:
        """Ends a request whose reader is gone; nothing happens if it ended already."""
        if not stream.is_ended:
            self.open_requests.free_id(stream.request)
            with self._has_news, suppress(EngineDeadError):
                self._queue(partial(self._drop, [stream]))

    def abort(self, request_ids: Iterable[str]) -> None:
        """Ends requests with a last output; unknown ids are ignored."""
        with suppress(EngineDeadError):
            self.call(partial(self._frontend.abort, list(request_ids)))

    def call(self, command: Callable[[], None]) -> None:
        """Runs the command in the engine's thread before its next step."""
        with self._has_news:
            self._queue(command)

    def check_alive(self) -> None:
        """Raises if nothing is served any more."""
        if self.error is not None:
            raise EngineDeadError(*self.error.args) from self.error.__cause__

    def check_health(self) -> None:
        """Raises what keeps the engine from serving."""
        self.check_alive()
        seconds = time.monotonic() - self._progress_time
        if self._is_busy and seconds > self._stall_seconds:
            raise EngineStalledError(
                f"requests run and no step ended for {seconds:.0f} s; expected one within {self._stall_seconds:g} s"
            )

    def stop(self) -> None:
        """Ends the thread, fails what runs and frees the device; a second call does nothing."""
        with self._has_news:
            self._is_stopping = True
            self._has_news.notify()
        if threading.current_thread() is self._thread:
            return
        self._thread.join(_STOP_SECONDS)
        if self._thread.is_alive():
            _logger.error("The engine's step does not end; its memory can't be freed")
            self._die(EngineDeadError(_SHUT_DOWN))
            return
        self._frontend.shutdown()

    def _run(self) -> None:
        try:
            while self._run_commands():
                if self._frontend.has_running:
                    self._frontend.step()
                    self._progress_time = time.monotonic()
                self._deliver()
        except BaseException as error:
            _logger.critical("The engine is dead: %r", error)
            death = _as_death(error)
            self._die(death)
            self._tell_death(death)
        else:
            self._die(EngineDeadError(_SHUT_DOWN))
            self._frontend.shutdown()

    def _run_commands(self) -> bool:
        """Waits for work; False when it is time to stop."""
        with self._has_news:
            if not self._frontend.has_running:
                self._is_busy = False
                while not self._commands and not self._is_stopping:
                    self._has_news.wait()
                self._progress_time = time.monotonic()
                self._is_busy = True
            commands, self._commands = self._commands, deque()
        if self._is_stopping:
            return False
        for command in commands:
            command()
        return True

    def _add(self, prepared: Prepared, stream: OutputStream) -> None:
        request = stream.request
        try:
            running = self._frontend.add(prepared, self._outbox, request.request_id)
        except EngineDeadError:
            raise
        except Exception as error:  # whatever is wrong with this request, the others go on
            self._end(stream, error)
            return
        self._running[request.request_id] = (stream, running)
        if request.is_aborted:
            self._frontend.abort([request.request_id])

    def _drop(self, streams: Iterable[OutputStream]) -> None:
        for stream in streams:
            known, running = self._running.get(stream.request.request_id, (None, None))
            if known is stream and running is not None:
                del self._running[stream.request.request_id]
                self._forget(stream)
                self._frontend.drop([running])

    def _deliver(self) -> None:
        touched: dict[LoopWaker, set[OutputStream]] = {}
        while self._outbox:
            output = self._outbox.popleft()
            if output.request_id in self._running:
                stream, _ = self._running[output.request_id]
                stream.put(output)
                touched.setdefault(stream.waker, set()).add(stream)
                if output.finished:
                    del self._running[output.request_id]
                    self._forget(stream)
        for waker, streams in touched.items():
            if not waker.wake(streams):
                self._drop([stream for stream, _ in list(self._running.values()) if stream.waker is waker])

    def _end(self, stream: OutputStream, error: BaseException) -> None:
        stream.fail(error)
        self._forget(stream)
        stream.waker.wake({stream})

    def _forget(self, stream: OutputStream) -> None:
        with self._has_news:
            self._streams.discard(stream)
        self.open_requests.close(stream.request)

    def _queue(self, command: Callable[[], None]) -> None:
        self.check_alive()
        self._commands.append(command)
        self._has_news.notify()

    def _die(self, error: EngineDeadError) -> None:
        with self._has_news:
            self.error = self.error or error
            self._is_busy = False
            self._commands.clear()
            streams = list(self._streams)
        for stream in streams:
            self._end(stream, self.error)
        self._running.clear()

    def _tell_death(self, error: BaseException) -> None:
        for callback in self.on_death:
            try:
                callback(error)
            except Exception:
                _logger.exception("A callback about the engine's death failed")


def _as_death(error: BaseException) -> EngineDeadError:
    if isinstance(error, EngineDeadError):
        return error
    death = EngineDeadError(f"the engine's thread failed: {error!r}")
    death.__cause__ = error
    return death
