"""Counts the programs that XLA compiles while others wait for them, so that a stray compile while serving shows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


class _Counter:
    def __init__(self) -> None:
        self.value = 0
        self.thread = threading.local()
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **details: str | int) -> None:
        """Called in the thread that compiles."""
        self.value += event == _EVENT and not getattr(self.thread, "is_uncounted", False)


@cache
def _counter() -> _Counter:
    return _Counter()


def num_compiles() -> int:
    """Programs compiled in this process since the first call of this function, by threads that count."""
    return _counter().value


@contextmanager
def uncounted_compiles() -> Iterator[None]:
    """What this thread compiles inside is not counted: no step waits for it."""
    thread = _counter().thread
    thread.is_uncounted = True
    try:
        yield
    finally:
        thread.is_uncounted = False
