"""Histograms that cost a fraction of a microsecond per value: they are fed for every token."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.utils import floatToGoString

TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_TIME_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
LATENCY_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
STEP_BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ITERATION_BUCKETS = (1.0, 8.0, *(float(2**power) for power in range(4, 15)))
COUNT_BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0)


def one_two_five(limit: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50 and so on, up to the limit."""
    steps = (float(digit * 10**power) for power in itertools.count() for digit in (1, 2, 5))
    return tuple(itertools.takewhile(lambda value: value <= limit, steps))


class Histogram:
    """Counts values by bucket. One thread adds; others may read meanwhile."""

    def __init__(self, name: str, documentation: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = list(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, values: Iterable[float | None]) -> None:
        """Takes in values; None is what never happened."""
        for value in values:
            if value is not None:
                self._counts[bisect_left(self._bounds, value)] += 1
                self._sum += value

    def family(self, prefix: str, labels: dict[str, str]) -> HistogramMetricFamily:
        """What Prometheus reads."""
        family = HistogramMetricFamily(prefix + self._name, self._documentation, labels=list(labels))
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        buckets = list(zip(names, itertools.accumulate(self._counts), strict=True))
        family.add_metric(list(labels.values()), buckets, self._sum)
        return family
