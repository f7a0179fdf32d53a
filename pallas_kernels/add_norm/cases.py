"""Random inputs that every backend of the add and norm is checked with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Case:
    """Shapes and constants of one call."""

    tokens: int
    size: int
    eps: float = 1e-5
    offset: float = 0.0
    norms_delta: bool = False


CASES = {
    "one_token": Case(tokens=1, size=64),
    "size_of_no_power_of_two": Case(tokens=3, size=80),
    "offset": Case(tokens=5, size=256, offset=1.0),
    "large_eps": Case(tokens=2, size=32, eps=0.5),
    "serving": Case(tokens=33, size=4096),
    "wide": Case(tokens=2, size=5120),
    "norm_of_delta": Case(tokens=7, size=80, norms_delta=True),
    "norm_of_delta_offset": Case(tokens=33, size=2560, eps=1e-6, offset=1.0, norms_delta=True),
}


def make_arrays(case: Case, seed: int = 0) -> tuple[np.ndarray, ...]:
    """(x, delta, weight), and the weight of delta's norm if it has one, float32; tokens differ in scale."""
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.integers(-2, 3, (case.tokens, 1))
    x, delta = (rng.standard_normal((case.tokens, case.size)) * scales for _ in range(2))
    weights = rng.standard_normal((1 + case.norms_delta, case.size))
    return tuple(array.astype(np.float32) for array in (x, delta, *weights))
