from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxllm.bench.serving_client import ServedRequest
from jaxllm.bench.serving_requests import ServingRequest
from jaxllm.bench.serving_result import ServingReport, ServingResult
from jaxllm.errors import ValidationError

REQUEST = ServingRequest(prompt=[0] * 7, prompt_len=7, output_len=9)
VLLM_KEYS = {
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
    "rtfx",
}


def make_served(start: float, *times: float, error: str | None = None, **usage: int) -> ServedRequest:
    return ServedRequest(
        request=REQUEST,
        start=start,
        token_times=list(times),
        texts=["x "] * len(times),
        usage=usage or None,
        error=error,
    )


SERVED = (
    make_served(100.0, 100.5, 100.6, 100.8),
    make_served(100.0, 101.0, 102.0, completion_tokens=4, prompt_tokens=11),
    make_served(101.5, 101.75),
    make_served(100.0, 100.1, error="HTTP 503: full"),
)


def make_result(*served: ServedRequest, report: ServingReport | None = None, **options: Any) -> ServingResult:
    return ServingResult(
        served=served or SERVED, duration=2.0, report=report or ServingReport(), setup={"model_id": "m"}, **options
    )


def test_totals_count_completed_requests_only() -> None:
    values = make_result().as_json()
    assert (values["completed"], values["failed"]) == (3, 1)
    assert (values["total_input_tokens"], values["total_output_tokens"]) == (7 + 11 + 7, 3 + 4 + 1)
    assert (values["request_throughput"], values["output_throughput"]) == (1.5, 4.0)
    assert values["total_token_throughput"] == 16.5


def test_keys_are_those_of_vllm() -> None:
    statistics = {
        f"{name}_{metric}_ms" for metric in ("ttft", "tpot", "itl") for name in ("mean", "median", "std", "p99")
    }
    assert set(make_result().as_json()) == {"model_id", *VLLM_KEYS, *statistics}


def test_only_the_metrics_that_were_asked_for_are_reported() -> None:
    report = ServingReport(metrics=("e2el",), percentages=(50.0, 99.9))
    values = make_result(report=report).as_json()
    found = {key for key in values if key.endswith("_ms")}
    assert found == {"mean_e2el_ms", "median_e2el_ms", "std_e2el_ms", "p50_e2el_ms", "p99.9_e2el_ms"}


def test_samples_are_the_times_between_chunks() -> None:
    samples = make_result().milliseconds
    assert samples["ttft"] == pytest.approx([500, 1000, 250])
    assert samples["itl"] == pytest.approx([100, 200, 1000])
    assert samples["tpot"] == pytest.approx([150, 1000 / 3])
    assert samples["e2el"] == pytest.approx([800, 2000, 250])


def test_statistics_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    gaps = rng.exponential(size=(50, 8))
    served = [make_served(0.0, *np.cumsum(row).tolist(), completion_tokens=8) for row in gaps]
    report = ServingReport(metrics=("ttft", "itl", "e2el"), percentages=(50.0, 90.0, 99.9))
    values = make_result(*served, report=report).as_json()
    for metric, samples in {"ttft": gaps[:, 0], "itl": gaps[:, 1:].ravel(), "e2el": gaps.sum(axis=1)}.items():
        expected = {
            "mean": samples.mean(),
            "median": np.median(samples),
            "std": samples.std(),
            "p50": np.percentile(samples, 50),
            "p90": np.percentile(samples, 90),
            "p99.9": np.percentile(samples, 99.9),
        }
        found = {name: values[f"{name}_{metric}_ms"] / 1000 for name in expected}
        assert found == pytest.approx(expected)


def test_token_peak_is_counted_by_the_second() -> None:
    assert make_result().as_json()["max_output_tokens_per_s"] == 3.0  # those of the first request, in second 0


def test_request_peak_counts_those_that_run_at_one_moment() -> None:
    after_another = [make_served(float(start), start + 0.25, start + 0.5) for start in (0, 0.5, 1.0)]
    assert make_result(*after_another).as_json()["max_concurrent_requests"] == 1
    assert make_result().as_json()["max_concurrent_requests"] == 2


@pytest.mark.parametrize(
    ("goodput", "expected"),
    [
        ({"ttft": 600}, 1.0),
        ({"ttft": 600, "tpot": 100}, 0.5),
        ({"tpot": 400, "e2el": 2000}, 1.5),
        ({"e2el": 100}, 0.0),
        (None, None),
    ],
)
def test_goodput_counts_requests_within_all_limits(goodput: dict[str, float] | None, expected: float | None) -> None:
    assert make_result(report=ServingReport(goodput=goodput)).as_json()["request_goodput"] == expected


def test_tokens_are_counted_by_usage_then_by_tokenizer_then_by_chunks() -> None:
    assert make_result().output_lens == [3, 4, 1]
    assert make_result().has_uncounted_tokens
    counted = make_result(count_tokens=len)
    assert counted.output_lens == [6, 4, 2]
    assert not counted.has_uncounted_tokens


def test_details_have_an_entry_for_every_request() -> None:
    details = make_result().details()
    assert details["input_lens"] == [7, 11, 7, 7]
    assert details["output_lens"] == [3, 4, 1, 0]
    assert details["start_times"] == [0.0, 0.0, 1.5, 0.0]
    assert details["errors"] == ["", "", "", "HTTP 503: full"]
    assert details["generated_texts"][0] == "x x x "
    assert [len(gaps) for gaps in details["itls"]] == [2, 1, 0, 0]
    assert details["ttfts"][0] == pytest.approx(0.5)


def test_run_without_an_answer_is_all_zeros() -> None:
    values = make_result(SERVED[3]).as_json()
    numbers = {key: value for key, value in values.items() if isinstance(value, (int, float))}
    assert {key for key, value in numbers.items() if value} == {"duration", "failed"}


def test_summary_is_the_table_that_vllm_prints() -> None:
    report = ServingReport(metrics=("ttft",), percentages=(90.0,), goodput={"ttft": 600})
    lines = make_result(report=report).summary().splitlines()
    assert lines == [
        "============ Serving Benchmark Result ============",
        "Successful requests:                     3",
        "Failed requests:                         1",
        "Benchmark duration (s):                  2.00",
        "Total input tokens:                      25",
        "Total generated tokens:                  8",
        "Request throughput (req/s):              1.50",
        "Request goodput (req/s):                 1.00",
        "Output token throughput (tok/s):         4.00",
        "Peak output token throughput (tok/s):    3.00",
        "Peak concurrent requests:                2.00",
        "Total token throughput (tok/s):          16.50",
        "---------------Time to First Token----------------",
        "Mean TTFT (ms):                          583.33",
        "Median TTFT (ms):                        500.00",
        "P90 TTFT (ms):                           900.00",
        "==================================================",
    ]


@pytest.mark.parametrize(
    ("request_rate", "lines"), [("inf", []), (4, ["Request rate configured (RPS):           4.00"])]
)
def test_summary_tells_a_limit_of_the_rate_only(request_rate: Any, lines: list[str]) -> None:
    result = ServingResult(
        served=SERVED, duration=2.0, report=ServingReport(), setup={"request_rate": request_rate, "max_concurrency": 64}
    )
    summary = result.summary().splitlines()
    assert [line for line in summary if line.startswith("Request rate")] == lines
    assert "Maximum request concurrency:             64" in summary


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("ttft", "tftt")}, r"^percentile_metrics must be of ttft, tpot, itl, e2el, got 'tftt'$"),
        ({"goodput": {"itl": 1.0}}, r"^goodput must be of ttft, tpot, e2el, got 'itl'$"),
        ({"percentages": (101.0,)}, r"^metric_percentiles must be in \[0, 100\], got 101$"),
    ],
)
def test_unknown_metric_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ServingReport(**options)
