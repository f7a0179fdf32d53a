"""The time of one request."""

from __future__ import annotations

import time


class RequestClock:
    """Starts with the request. Intervals are measured by a clock that nobody sets; wall time is the arrival plus an
    interval."""

    def __init__(self) -> None:
        self.arrival_wall_time = time.time()
        """Of `time.time()`."""
        self.arrival_time = time.monotonic()
        """Of `time.monotonic()`."""

    def wall_time(self, time_of_clock: float | None) -> float | None:
        """What `time.time()` was at a time of `time.monotonic()`."""
        return None if time_of_clock is None else self.arrival_wall_time + (time_of_clock - self.arrival_time)
