"""When the requests of a serving benchmark are sent."""

from __future__ import annotations

import math

import numpy as np

from jaxllm.errors import ValidationError


def arrival_times(num_requests: int, *, request_rate: float, burstiness: float, seed: int) -> list[float]:
    """Seconds from the start at which each request is sent; an infinite rate sends all at once.

    The gaps are drawn from a gamma distribution with shape `burstiness`: 1 is a Poisson process, less comes in bursts,
    more is steadier. They are stretched so that the whole has exactly the asked rate.
    """
    if not request_rate > 0 or not burstiness > 0:
        name, value = ("burstiness", burstiness) if request_rate > 0 else ("request_rate", request_rate)
        raise ValidationError(f"{name} must be above 0, got {value}", parameter=name)
    if math.isinf(request_rate):
        return [0.0] * num_requests
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.gamma(shape=burstiness, scale=1 / (request_rate * burstiness), size=num_requests))
    return (times * (num_requests / request_rate / times[-1])).tolist()
