"""The engine's metrics for Prometheus, under vLLM's names but for the prefix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.responses import Response

from jaxllm.frontend.statistics import RequestStats, StepStats
from jaxllm.server import histogram
from jaxllm.server.context import ServerContext
from jaxllm.server.histogram import Histogram

PREFIX = "jaxllm:"
VLLM_PREFIX = "vllm:"
FINISH_REASONS = ("stop", "length", "abort", "error")
REJECTION_REASONS = ("requests", "tokens", "draining")


def make_registry(context: ServerContext) -> CollectorRegistry:
    """A registry of this server's own, fed by its engine from now on."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    collector = EngineCollector(context)
    context.llm.listeners.append(collector)
    registry.register(collector)
    return registry


def metrics_routes(registry: CollectorRegistry) -> APIRouter:
    """The endpoint that Prometheus scrapes."""
    router = APIRouter(tags=["health"])

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        """All metrics as text."""
        encoder, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encoder(registry), headers={"Content-Type": content_type})

    return router


class EngineCollector(Collector):
    """Hears of steps and requests, and tells what it heard when it is asked."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._prefixes = (PREFIX, VLLM_PREFIX) if context.config.vllm_metric_names else (PREFIX,)
        self._labels = {"model_name": context.model_name, "engine": "0"}
        self._finished: Counter[str] = Counter()
        self._num_compiles = 0
        self._steps = _step_histograms()
        self._requests = _request_histograms(context.llm.max_model_len)

    def on_step(self, stats: StepStats) -> None:
        """Takes in a step, in the engine's thread."""
        self._num_compiles = stats.num_compiles
        steps = self._steps
        steps["time_to_first_token_seconds"].add(stats.times_to_first_token)
        steps["inter_token_latency_seconds"].add(stats.inter_token_latencies)
        steps["iteration_tokens_total"].add((stats.num_tokens,))
        steps["step_time_seconds"].add((stats.total_seconds,))
        steps["host_time_seconds"].add((stats.host_seconds,))

    def on_finished(self, stats: RequestStats) -> None:
        """Takes in a request that ended, in the engine's thread."""
        self._finished.update(stats.finish_reasons)
        for name, value in _request_values(stats).items():
            self._requests[name].add((value,))

    def collect(self) -> Iterator[Metric]:
        """All families, once per prefix."""
        for prefix in self._prefixes:
            yield from self._gauges(prefix)
            yield from self._counters(prefix)
            for one in (*self._steps.values(), *self._requests.values()):
                yield one.family(prefix, self._labels)

    def _gauges(self, prefix: str) -> Iterator[Metric]:
        now = self._context.llm.get_metrics()
        yield self._gauge(prefix, "num_requests_running", "Sequences that hold pages.", now.num_running)
        yield self._gauge(prefix, "num_requests_waiting", "Sequences that wait for pages.", now.num_waiting)
        waiting = "Sequences that wait, by what they wait for."
        yield self._gauge(prefix, "num_requests_waiting_by_reason", waiting, now.num_waiting, {"reason": "capacity"})
        yield self._gauge(prefix, "kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.", now.kv_cache_usage)
        left = self._context.llm.num_programs_to_compile
        waiting = "Programs that still compile while larger ones run in their place."
        yield self._gauge(prefix, "programs_to_compile", waiting, left)
        config = self._context.llm.config
        cache = {
            "block_size": str(config.page_size),
            "num_gpu_blocks": str(self._context.llm.num_pages),
            "enable_prefix_caching": str(config.enable_prefix_caching),
            "gpu_memory_utilization": str(config.device_memory_utilization),
        }
        yield self._gauge(prefix, "cache_config_info", "How the KV cache is made.", 1, cache)

    def _counters(self, prefix: str) -> Iterator[Metric]:
        now = self._context.llm.get_metrics()
        computed = now.prefix_cache_queries - now.prefix_cache_hits
        by_source = {"local_compute": computed, "local_cache_hit": now.prefix_cache_hits}
        values = {
            "prompt_tokens": ("Prompt tokens of admitted requests.", now.num_prompt_tokens),
            "generation_tokens": ("Generated tokens.", now.num_generation_tokens),
            "prompt_tokens_cached": ("Prompt tokens that the prefix cache had.", now.prefix_cache_hits),
            "prefix_cache_queries": ("Prompt tokens looked up in the prefix cache.", now.prefix_cache_queries),
            "prefix_cache_hits": ("Prompt tokens found there.", now.prefix_cache_hits),
            "num_preemptions": ("Sequences that lost their pages for a while.", now.num_preemptions),
            "saved_tokens": ("Tokens of those that were kept in the host's memory.", now.num_saved_tokens),
            "compiles_after_ready": ("Programs that a step waited for since the engine was ready.", self._num_compiles),
        }
        for name, (documentation, value) in values.items():
            yield self._counter(prefix, name, documentation, value)
        yield self._counter_by(prefix, "prompt_tokens_by_source", "Prompt tokens by their source.", "source", by_source)
        finished = {reason: self._finished[reason] for reason in FINISH_REASONS}
        yield self._counter_by(prefix, "request_success", "Completions that ended.", "finished_reason", finished)
        rejections = {reason: self._context.admission.rejections[reason] for reason in REJECTION_REASONS}
        yield self._counter_by(prefix, "admission_rejections", "Requests answered with 503.", "reason", rejections)

    def _gauge(
        self, prefix: str, name: str, documentation: str, value: float, extra: Mapping[str, str] | None = None
    ) -> Metric:
        labels = {**self._labels, **(extra or {})}
        family = GaugeMetricFamily(prefix + name, documentation, labels=list(labels))
        family.add_metric(list(labels.values()), value)
        return family

    def _counter(self, prefix: str, name: str, documentation: str, value: float) -> Metric:
        family = CounterMetricFamily(prefix + name, documentation, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), value)
        return family

    def _counter_by(
        self, prefix: str, name: str, documentation: str, label: str, values: Mapping[str, float]
    ) -> Metric:
        family = CounterMetricFamily(prefix + name, documentation, labels=[*self._labels, label])
        for key, value in values.items():
            family.add_metric([*self._labels.values(), key], value)
        return family


def _request_values(stats: RequestStats) -> dict[str, float | None]:
    return {
        "e2e_request_latency_seconds": stats.total_seconds,
        "request_queue_time_seconds": stats.queue_seconds,
        "request_inference_time_seconds": stats.inference_seconds,
        "request_prefill_time_seconds": stats.prefill_seconds,
        "request_decode_time_seconds": stats.decode_seconds,
        "request_time_per_output_token_seconds": stats.seconds_per_output_token,
        "request_prompt_tokens": stats.num_prompt_tokens,
        "request_generation_tokens": stats.num_generation_tokens,
        "request_prefill_kv_computed_tokens": stats.num_prompt_tokens - stats.num_cached_tokens,
        "request_params_n": stats.n,
        "request_params_max_tokens": stats.max_tokens,
        "request_num_preemptions": stats.num_preemptions,
    }


def _step_histograms() -> dict[str, Histogram]:
    return _by_name(
        ("time_to_first_token_seconds", "From arrival to the first token.", histogram.TTFT_BUCKETS),
        ("inter_token_latency_seconds", "From one token to the next.", histogram.TOKEN_TIME_BUCKETS),
        ("iteration_tokens_total", "Tokens computed in a step.", histogram.ITERATION_BUCKETS),
        ("step_time_seconds", "Time of a step as requests feel it.", histogram.STEP_BUCKETS),
        ("host_time_seconds", "Host's part of that time, waiting aside.", histogram.STEP_BUCKETS),
    )


def _request_histograms(max_model_len: int) -> dict[str, Histogram]:
    latency, tokens = histogram.LATENCY_BUCKETS, histogram.one_two_five(max_model_len)
    token_time, counts = histogram.TOKEN_TIME_BUCKETS, histogram.COUNT_BUCKETS
    return _by_name(
        ("e2e_request_latency_seconds", "From arrival to the end.", latency),
        ("request_queue_time_seconds", "From arrival to the first step.", latency),
        ("request_inference_time_seconds", "From the first step to the last token.", latency),
        ("request_prefill_time_seconds", "From the first step to the first token.", latency),
        ("request_decode_time_seconds", "From the first token to the last.", latency),
        ("request_time_per_output_token_seconds", "Mean time of a request's tokens after the first.", token_time),
        ("request_prompt_tokens", "Prompt tokens of a request.", tokens),
        ("request_generation_tokens", "Generated tokens of a request.", tokens),
        ("request_prefill_kv_computed_tokens", "Prompt tokens of a request that were not cached.", tokens),
        ("request_params_n", "Completions that a request asked for.", counts),
        ("request_params_max_tokens", "Longest completion that a request asked for.", tokens),
        ("request_num_preemptions", "How often a request lost its pages.", counts),
    )


def _by_name(*rows: tuple[str, str, tuple[float, ...]]) -> dict[str, Histogram]:
    return {name: Histogram(name, documentation, bounds) for name, documentation, bounds in rows}
