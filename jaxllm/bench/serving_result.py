"""What a serving benchmark measured, under vLLM's keys and in vLLM's words."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxllm.bench.serving_client import ServedRequest
from jaxllm.errors import ValidationError

METRICS = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}
GOODPUT_METRICS = ("ttft", "tpot", "e2el")
WIDTH = 50


@dataclass(frozen=True, kw_only=True)
class ServingReport:
    """What of the measured is reported, and the limits that a good request keeps."""

    metrics: tuple[str, ...] = ("ttft", "tpot", "itl")
    """Of `METRICS`."""
    percentages: tuple[float, ...] = (99.0,)
    """Percentiles of each of them."""
    goodput: Mapping[str, float] | None = None
    """Most milliseconds of each of `GOODPUT_METRICS` for a request to count as good; None counts none."""

    def __post_init__(self) -> None:
        _check_names("percentile_metrics", self.metrics, METRICS)
        _check_names("goodput", self.goodput or (), GOODPUT_METRICS)
        for percentage in self.percentages:
            if not 0 <= percentage <= 100:
                raise ValidationError(f"metric_percentiles must be in [0, 100], got {percentage:g}")


@dataclass(frozen=True, kw_only=True)
class ServingResult:
    """A finished run; requests that failed count in nothing but `failed`."""

    served: Sequence[ServedRequest]
    duration: float
    """Seconds from the first request to the last answer."""
    report: ServingReport
    setup: Mapping[str, Any]
    """What the run was asked for, under vLLM's keys."""
    count_tokens: Callable[[str], int] | None = None
    """Counts an answer's tokens where the server doesn't; without it each chunk counts as one."""

    @cached_property
    def completed(self) -> list[ServedRequest]:
        """The requests that were answered to the end."""
        return [served for served in self.served if served.error is None]

    @property
    def errors(self) -> list[str]:
        """Why the others failed."""
        return [served.error for served in self.served if served.error is not None]

    @property
    def has_uncounted_tokens(self) -> bool:
        """Whether chunks had to stand for tokens."""
        return self.count_tokens is None and any(served.usage is None for served in self.completed)

    @cached_property
    def output_lens(self) -> list[int]:
        """Tokens that each completed request generated."""
        return [self._output_len(served) for served in self.completed]

    @cached_property
    def milliseconds(self) -> dict[str, list[float]]:
        """Samples of each of `METRICS`; a request of one token has no time per output token."""
        completed = self.completed
        return {
            "ttft": [1000 * served.ttft for served in completed],
            "tpot": [1000 * time for time, length in zip(self._tpots, self.output_lens, strict=True) if length > 1],
            "itl": [1000 * gap for served in completed for gap in served.inter_token_latencies],
            "e2el": [1000 * served.latency for served in completed],
        }

    def as_json(self) -> dict[str, Any]:
        """The keys of vLLM's result file, without the lists of single requests."""
        num_input, num_output = sum(served.prompt_len for served in self.completed), sum(self.output_lens)
        values = {
            **self.setup,
            "duration": self.duration,
            "completed": len(self.completed),
            "failed": len(self.errors),
            "total_input_tokens": num_input,
            "total_output_tokens": num_output,
            "request_throughput": len(self.completed) / self.duration,
            "request_goodput": None if self.report.goodput is None else self._num_good / self.duration,
            "output_throughput": num_output / self.duration,
            "total_token_throughput": (num_input + num_output) / self.duration,
            "max_output_tokens_per_s": max(self._per_second(served.token_times for served in self.completed)),
            "max_concurrent_requests": self._max_running,
            "rtfx": 0.0,
        }
        for metric in self.report.metrics:
            values |= self._statistics(metric)
        return values

    def details(self) -> dict[str, Any]:
        """One entry per request, failed ones included."""
        lengths = dict(zip(map(id, self.completed), self.output_lens, strict=True))
        first = min((served.start for served in self.served), default=0.0)
        return {
            "input_lens": [served.prompt_len for served in self.served],
            "output_lens": [lengths.get(id(served), 0) for served in self.served],
            "start_times": [served.start - first for served in self.served],
            "ttfts": [served.ttft for served in self.served],
            "itls": [served.inter_token_latencies for served in self.served],
            "generated_texts": [served.text for served in self.served],
            "errors": [served.error or "" for served in self.served],
        }

    def summary(self) -> str:
        """vLLM's table."""
        values = self.as_json()
        lines = [f"{' Serving Benchmark Result ':=^{WIDTH}}"]
        for label, key in _SUMMARY.items():
            value = values.get(key)
            if value is not None and value != "inf":  # vLLM has no line for a rate without a limit
                lines.append(_line(label, float(value) if key in _SHOWN_AS_FLOATS else value))
        for metric in self.report.metrics:
            lines.append(f"{METRICS[metric]:-^{WIDTH}}")
            for key, value in self._statistics(metric).items():
                statistic = key.split("_")[0]
                if statistic != "std":
                    label = statistic.capitalize() if statistic in ("mean", "median") else statistic.upper()
                    lines.append(_line(f"{label} {metric.upper()} (ms):", value))
        return "\n".join([*lines, "=" * WIDTH])

    @property
    def _tpots(self) -> list[float]:
        """Seconds per token after the first; 0 where there is only one."""
        pairs = zip(self.completed, self.output_lens, strict=True)
        return [(served.latency - served.ttft) / (length - 1) if length > 1 else 0.0 for served, length in pairs]

    @property
    def _num_good(self) -> int:
        goodput = self.report.goodput or {}
        times = {
            "ttft": [served.ttft for served in self.completed],
            "tpot": self._tpots,
            "e2el": [served.latency for served in self.completed],
        }
        is_good = [[1000 * time <= limit for time in times[metric]] for metric, limit in goodput.items()]
        return sum(all(row) for row in zip(*is_good, strict=True))

    def _output_len(self, served: ServedRequest) -> int:
        if served.usage is not None and served.usage.get("completion_tokens") is not None:
            return int(served.usage["completion_tokens"])
        return len(served.token_times) if self.count_tokens is None else self.count_tokens(served.text)

    def _statistics(self, metric: str) -> dict[str, float]:
        samples = self.milliseconds[metric] or [0.0]
        statistics = {"mean": np.mean(samples), "median": np.median(samples), "std": np.std(samples)}
        for percentage in self.report.percentages:
            statistics[f"p{percentage:g}"] = np.percentile(samples, percentage)
        return {f"{name}_{metric}_ms": float(value) for name, value in statistics.items()}

    def _per_second(self, times: Any) -> list[float]:
        """Number of times in each second of the run, which begins with the first request."""
        seconds = [int(time - self._first_start) for group in times for time in group]
        return np.bincount(seconds, minlength=1).astype(float).tolist()

    @property
    def _max_running(self) -> int:
        """Most completed requests that ran at one moment; one that begins as another ends does not run beside it."""
        starts = [(served.start, 1) for served in self.completed]
        ends = [(served.start + served.latency, -1) for served in self.completed]
        return max(itertools.accumulate((change for _, change in sorted(starts + ends)), initial=0))

    @cached_property
    def _first_start(self) -> float:
        return min((served.start for served in self.completed), default=0.0)


_SUMMARY = {
    "Successful requests:": "completed",
    "Failed requests:": "failed",
    "Maximum request concurrency:": "max_concurrency",
    "Request rate configured (RPS):": "request_rate",
    "Benchmark duration (s):": "duration",
    "Total input tokens:": "total_input_tokens",
    "Total generated tokens:": "total_output_tokens",
    "Request throughput (req/s):": "request_throughput",
    "Request goodput (req/s):": "request_goodput",
    "Output token throughput (tok/s):": "output_throughput",
    "Peak output token throughput (tok/s):": "max_output_tokens_per_s",
    "Peak concurrent requests:": "max_concurrent_requests",
    "Total token throughput (tok/s):": "total_token_throughput",
}
_SHOWN_AS_FLOATS = ("request_rate", "max_concurrent_requests")
"""These get two decimals, whole or not."""


def _line(label: str, value: Any) -> str:
    text = f"{value:.2f}" if isinstance(value, float) else str(value)
    return f"{label:<40} {text:<9}".rstrip()


def _check_names(parameter: str, names: Any, known: Any) -> None:
    for name in names:
        if name not in known:
            raise ValidationError(f"{parameter} must be of {', '.join(known)}, got {name!r}", parameter=parameter)
