"""Counts every program that XLA compiles in this process, so that a stray compile while serving shows."""

from __future__ import annotations

from functools import cache

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


class _Counter:
    def __init__(self) -> None:
        self.value = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **details: str | int) -> None:
        self.value += event == _EVENT


@cache
def _counter() -> _Counter:
    return _Counter()


def num_compiles() -> int:
    """Programs compiled in this process since the first call of this function."""
    return _counter().value
