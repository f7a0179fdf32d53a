from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jaxllm.bench.report import median, percentiles, report


class FixedResult:
    def as_json(self) -> dict[str, Any]:
        return {"value": 1}

    def summary(self) -> str:
        return "one"


def test_percentiles_interpolate() -> None:
    assert percentiles([0.0, 10.0]) == {"10": 1.0, "25": 2.5, "50": 5.0, "75": 7.5, "90": 9.0, "99": 9.9}


def test_median_of_nothing_is_none() -> None:
    assert median([]) is None
    assert median([1.0, 2.0, 9.0]) == 2.0


def test_report_prints_the_summary_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    report(FixedResult(), str(path))
    assert capsys.readouterr().out == "one\n"
    assert json.loads(path.read_text(encoding="utf-8")) == {"value": 1}


def test_report_without_a_file_only_prints(capsys: pytest.CaptureFixture[str]) -> None:
    report(FixedResult(), None)
    assert capsys.readouterr().out == "one\n"
