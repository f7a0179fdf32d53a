from __future__ import annotations

import numpy as np
import pytest

from jaxllm.bench.arrivals import arrival_times
from jaxllm.errors import ValidationError


def arrive(num_requests: int = 2000, rate: float = 4.0, burstiness: float = 1.0, seed: int = 0) -> list[float]:
    return arrival_times(num_requests, request_rate=rate, burstiness=burstiness, seed=seed)


def test_infinite_rate_sends_all_at_once() -> None:
    assert arrive(3, rate=float("inf")) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("burstiness", [0.5, 1.0, 100.0])
def test_whole_run_has_the_asked_rate(burstiness: float) -> None:
    times = arrive(burstiness=burstiness)
    assert times == sorted(times)
    assert times[-1] == pytest.approx(500.0)


@pytest.mark.parametrize(("burstiness", "variation"), [(0.25, 2.0), (1.0, 1.0), (16.0, 0.25)])
def test_burstiness_is_the_inverse_square_of_the_variation(burstiness: float, variation: float) -> None:
    gaps = np.diff(arrive(20000, burstiness=burstiness))
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(variation, rel=0.05)


def test_times_repeat_with_their_seed() -> None:
    assert arrive(seed=1) == arrive(seed=1)
    assert arrive(seed=1) != arrive(seed=2)


@pytest.mark.parametrize(("rate", "burstiness", "name"), [(0.0, 1.0, "request_rate"), (1.0, -1.0, "burstiness")])
def test_value_that_is_not_above_zero_is_refused(rate: float, burstiness: float, name: str) -> None:
    with pytest.raises(ValidationError, match=rf"^{name} must be above 0, got "):
        arrive(rate=rate, burstiness=burstiness)
