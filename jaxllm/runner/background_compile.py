"""Compiles the rest of the programs while the engine serves already."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from jaxllm.runner.compile_counter import uncounted_compiles
from jaxllm.runner.executables import Compiled, ExecutableStore, Lower

logger = logging.getLogger(__name__)

_NUM_COMPILERS = max(1, min(4, (os.cpu_count() or 1) // 4))
"""A quarter of the cores, so that the host's part of a step finds one free."""
_TURN_SECONDS = 1e-4
"""How long tracing may keep Python to itself when a step wants it; Python's own 5 ms would be felt in every step."""
_TRACING = threading.Lock()
"""One engine traces at a time: Python can do no better, and the length of turns belongs to the whole process."""

OnReady = Callable[[str, Compiled], None]


class BackgroundCompile:
    """One thread traces programs in the given order, others compile them and hand out each when it is ready.

    Tracing is Python and disturbs steps a little, so it may start while nothing is served yet. XLA works beside Python.
    A program that fails is told in the log and left out. XLA can't be interrupted: after `stop`, what is being
    compiled goes on to its end, is kept on disk, and is handed to no one; the end of the process waits for that.
    """

    def __init__(self, store: ExecutableStore, programs: Mapping[str, Lower], on_ready: OnReady) -> None:
        """`on_ready`, a bound method, is called in these threads, one call at a time; its object is not kept alive."""
        self._store = store
        self._programs = programs
        self._on_ready = weakref.WeakMethod(on_ready)
        self._traced: SimpleQueue[tuple[str, Any] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_stopped = False
        self._ended = threading.Event()
        self._num_left = len(programs)
        self._num_ready = 0
        self._started_at = time.perf_counter()
        # Daemon threads, so that a program may end without `stop`: `_stop_and_join` then waits for them in time.
        self._tracer = threading.Thread(target=self._trace, name="background-trace", daemon=True)
        self._compilers = [
            threading.Thread(target=self._compile, name=f"background-compile-{index}", daemon=True)
            for index in range(min(_NUM_COMPILERS, len(programs)))
        ]
        self._num_compiling = len(self._compilers)

    @property
    def num_left(self) -> int:
        """Programs that are waiting or being compiled."""
        return 0 if self._ended.is_set() else self._num_left

    def start_tracing(self) -> None:
        """Begins to trace; without programs there is nothing to do."""
        if not self._programs:
            self._ended.set()
            return
        # Python must not be torn down around threads that run C++ code. The last one registered is called first, and
        # the first finalizer registers the call of all of them, of JAX's for the constants of a running trace too:
        # with one made here, that call comes after this one at any rate.
        weakref.finalize(self, _nothing)
        atexit.register(self._stop_and_join)
        self._tracer.start()

    def start_compiling(self) -> None:
        """Begins to compile what is traced."""
        for thread in self._compilers:
            thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until nothing is left to compile, or until `stop`; False after `timeout` seconds."""
        return self._ended.wait(timeout)

    def stop(self) -> None:
        """Compiles nothing more; returns at once. After it, nothing is handed out."""
        with self._lock:
            self._is_stopped = True
        self._ended.set()

    def _stop_and_join(self) -> None:
        self.stop()
        for thread in (self._tracer, *self._compilers):
            if thread.is_alive():
                thread.join()

    def _is_unwanted(self) -> bool:
        return self._is_stopped or self._on_ready() is None

    def _trace(self) -> None:
        for name, lower in self._programs.items():
            if self._is_unwanted():
                break
            try:
                with _short_turns():
                    lowered = self._store.trace(name, lower)
            except Exception:  # whatever goes wrong here, the programs that are there go on serving
                self._tell_failure(name)
            else:
                self._traced.put((name, lowered))
        for _ in self._compilers:
            self._traced.put(None)

    def _compile(self) -> None:
        while (traced := self._traced.get()) is not None:
            name, lowered = traced
            if self._is_unwanted():
                continue
            try:
                with uncounted_compiles():
                    compiled = self._store.compile(name, lowered)
            except Exception:  # as above
                self._tell_failure(name)
            else:
                self._hand_out(name, compiled)
        self._end()

    def _hand_out(self, name: str, compiled: Compiled) -> None:
        with self._lock:
            self._num_left -= 1
            on_ready = self._on_ready()
            if on_ready is not None and not self._is_stopped:
                on_ready(name, compiled)
                self._num_ready += 1

    def _tell_failure(self, name: str) -> None:
        logger.exception("Program %s can't be compiled; larger ones run in its place.", name)
        with self._lock:
            self._num_left -= 1

    def _end(self) -> None:
        with self._lock:
            self._num_compiling -= 1
            is_last, was_stopped = self._num_compiling == 0, self._is_stopped
        if is_last:
            atexit.unregister(self._stop_and_join)
            if not was_stopped:
                seconds = time.perf_counter() - self._started_at
                logger.info("Compiled %d programs in the background, in %.1f s.", self._num_ready, seconds)
                gc.freeze()  # as `build_engine` does; tracing leaves as many objects as all that was imported
            self._ended.set()


def _nothing() -> None:
    """A finalizer."""


@contextmanager
def _short_turns() -> Iterator[None]:
    with _TRACING:
        usual = sys.getswitchinterval()
        sys.setswitchinterval(min(usual, _TURN_SECONDS))
        try:
            yield
        finally:
            sys.setswitchinterval(usual)
