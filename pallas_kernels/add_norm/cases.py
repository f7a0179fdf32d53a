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


CASES = {
    "one_token": Case(tokens=1, size=64),
    "size_of_no_power_of_two": Case(tokens=3, size=80),
    "offset": Case(tokens=5, size=256, offset=1.0),
    "large_eps": Case(tokens=2, size=32, eps=0.5),
    "serving": Case(tokens=33, size=4096),
    "wide": Case(tokens=2, size=5120),
}


def make_arrays(case: Case, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, delta, weight), float32; tokens differ in scale."""
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.integers(-2, 3, (case.tokens, 1))
    x, delta = (rng.standard_normal((case.tokens, case.size)) * scales for _ in range(2))
    weight = rng.standard_normal(case.size)
    return x.astype(np.float32), delta.astype(np.float32), weight.astype(np.float32)
