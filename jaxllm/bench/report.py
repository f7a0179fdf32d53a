"""How results are summed up and written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

PERCENTAGES = (10, 25, 50, 75, 90, 99)


class Result(Protocol):
    """A finished benchmark."""

    def as_json(self) -> dict[str, Any]:
        """The values under the keys that vLLM's benchmark of the same name writes, and some more."""
        ...

    def summary(self) -> str:
        """A few lines for people."""
        ...


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Percentiles by percentage, such as `{"50": 1.5}`."""
    return {str(percentage): float(np.percentile(values, percentage)) for percentage in PERCENTAGES}


def median(values: Sequence[float]) -> float | None:
    """The median, or None of no values."""
    return float(np.median(values)) if len(values) else None


def report(result: Result, output_json: str | None) -> None:
    """Prints the summary, and writes the JSON file if one is wanted."""
    print(result.summary())
    if output_json is not None:
        write_json(output_json, result.as_json())


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Writes one indented JSON object."""
    Path(path).write_text(json.dumps(values, indent=4) + "\n", encoding="utf-8")
