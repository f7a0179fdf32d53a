"""Latency of one batch: whole calls first, then the same batch streamed for the time of each token."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxllm.bench.report import median, percentiles
from jaxllm.bench.workload import BenchmarkRequest, BenchmarkSampling, sampling_params
from jaxllm.sampling_params import RequestOutputKind

if TYPE_CHECKING:
    from jaxllm.llm import JaxLLM


@dataclass(frozen=True, kw_only=True)
class LatencyResult:
    """What each call of `generate` over the batch took."""

    model_id: str
    """The model as the user named it."""
    latencies: list[float]
    """Seconds of each measured call."""
    times_to_first_token: list[float]
    """Seconds from the call to the first token, of every request of every streamed call."""
    inter_token_latencies: list[float]
    """Seconds between two outputs of the same request, over all streamed calls."""

    def as_json(self) -> dict[str, Any]:
        """Keys as in vLLM: the first three of `bench latency`, the medians of `bench serve`."""
        return {
            "model_id": self.model_id,
            "avg_latency": sum(self.latencies) / len(self.latencies),
            "latencies": self.latencies,
            "percentiles": percentiles(self.latencies),
            "median_ttft_ms": _milliseconds(median(self.times_to_first_token)),
            "median_itl_ms": _milliseconds(median(self.inter_token_latencies)),
        }

    def summary(self) -> str:
        """Average, percentiles, and what a streaming user sees."""
        values = self.as_json()
        lines = [f"Average latency: {values['avg_latency']:.4f} s"]
        lines += [f"{percentage}% percentile: {seconds:.4f} s" for percentage, seconds in values["percentiles"].items()]
        for key, words in (("median_ttft_ms", "time to first token"), ("median_itl_ms", "time between tokens")):
            if values[key] is not None:
                lines.append(f"Median {words}: {values[key]:.2f} ms")
        return "\n".join(lines)


def run_latency(
    llm: JaxLLM,
    requests: Sequence[BenchmarkRequest],
    sampling: BenchmarkSampling,
    *,
    model_id: str,
    num_iters_warmup: int,
    num_iters: int,
) -> LatencyResult:
    """Calls `generate` with the same batch again and again; warm-up calls are not counted."""
    for _ in range(num_iters_warmup):
        _time_call(llm, requests, sampling)
    latencies = [_time_call(llm, requests, sampling) for _ in range(num_iters)]
    first_tokens: list[float] = []
    gaps: list[float] = []
    for _ in range(num_iters):
        _time_stream(llm, requests, sampling, first_tokens, gaps)
    return LatencyResult(
        model_id=model_id, latencies=latencies, times_to_first_token=first_tokens, inter_token_latencies=gaps
    )


def _time_call(llm: JaxLLM, requests: Sequence[BenchmarkRequest], sampling: BenchmarkSampling) -> float:
    prompts = [request.prompt for request in requests]
    params = sampling_params(requests, sampling)
    start = time.perf_counter()
    llm.generate(prompts, params, use_tqdm=False)
    return time.perf_counter() - start


def _time_stream(
    llm: JaxLLM,
    requests: Sequence[BenchmarkRequest],
    sampling: BenchmarkSampling,
    first_tokens: list[float],
    gaps: list[float],
) -> None:
    """Appends what one streamed call showed to `first_tokens` and `gaps`."""
    prompts = [request.prompt for request in requests]
    params = [sampling.params(request.output_len, RequestOutputKind.DELTA) for request in requests]
    last_seen: dict[str, float] = {}
    start = time.perf_counter()
    for output in llm.generate(prompts, params, use_tqdm=False, stream=True):
        now = time.perf_counter()
        if output.request_id in last_seen:
            gaps.append(now - last_seen[output.request_id])
        else:
            first_tokens.append(now - start)
        last_seen[output.request_id] = now


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
