from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from jaxllm.server.histogram import Histogram, one_two_five

ENGINE = {"model_name": "scripted", "engine": "0"}

GAUGES = (
    "num_requests_running",
    "num_requests_waiting",
    "num_requests_waiting_by_reason",
    "kv_cache_usage_perc",
    "programs_to_compile",
    "cache_config_info",
)
COUNTERS = (
    "prompt_tokens",
    "generation_tokens",
    "prompt_tokens_cached",
    "prompt_tokens_by_source",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "num_preemptions",
    "saved_tokens",
    "request_success",
    "admission_rejections",
    "compiles_after_ready",
)
HISTOGRAMS = (
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_inference_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_params_n",
    "request_params_max_tokens",
    "request_num_preemptions",
    "request_prefill_kv_computed_tokens",
    "iteration_tokens_total",
    "step_time_seconds",
    "host_time_seconds",
)


def scrape(client, **headers: str):
    """Samples by name and labels."""
    response = client.get("/metrics", headers=headers)
    assert response.status_code == 200
    samples = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            samples[sample.name, *sorted(sample.labels.items())] = sample.value
    return samples


def value(samples, name: str, **labels: str) -> float:
    return samples[(name, *sorted((ENGINE | labels).items()))]


def test_all_names_are_there_before_any_request(client) -> None:
    text = client.get("/metrics").text
    for kind, names in (("gauge", GAUGES), ("histogram", HISTOGRAMS)):
        for name in names:
            assert f"# TYPE jaxllm:{name} {kind}\n" in text
    for name in COUNTERS:
        assert f"# TYPE jaxllm:{name}_total counter\n" in text
    assert "process_resident_memory_bytes" in text
    assert "vllm:" not in text


def test_requests_are_counted(start) -> None:
    client = start({"hi": "hello"})
    client.complete("hi", n=2)
    client.complete("hi", max_tokens=3)
    samples = scrape(client)
    assert value(samples, "jaxllm:request_success_total", finished_reason="stop") == 2
    assert value(samples, "jaxllm:request_success_total", finished_reason="length") == 1
    assert value(samples, "jaxllm:request_success_total", finished_reason="abort") == 0
    assert value(samples, "jaxllm:generation_tokens_total") == 2 * 6 + 3
    assert value(samples, "jaxllm:e2e_request_latency_seconds_count") == 2
    assert value(samples, "jaxllm:time_to_first_token_seconds_count") == 2
    assert value(samples, "jaxllm:inter_token_latency_seconds_count") == 2 * 5 + 2
    assert value(samples, "jaxllm:request_params_n_bucket", le="1.0") == 1
    assert value(samples, "jaxllm:request_params_n_bucket", le="2.0") == 2
    assert value(samples, "jaxllm:request_params_max_tokens_sum") == 16 + 3
    assert value(samples, "jaxllm:request_prompt_tokens_sum") == 4
    assert value(samples, "jaxllm:num_requests_running") == 0
    assert value(samples, "jaxllm:kv_cache_usage_perc") == 0
    assert value(samples, "jaxllm:compiles_after_ready_total") == 0
    steps = value(samples, "jaxllm:step_time_seconds_count")
    assert steps == value(samples, "jaxllm:host_time_seconds_count") >= 9


def test_cached_prompt_tokens_are_told_by_their_source(start) -> None:
    client = start()
    for _ in range(2):
        client.complete("a" * 40, max_tokens=1)
    samples = scrape(client)
    assert value(samples, "jaxllm:prefix_cache_queries_total") == 80
    assert value(samples, "jaxllm:prefix_cache_hits_total") == 32
    assert value(samples, "jaxllm:prompt_tokens_cached_total") == 32
    assert value(samples, "jaxllm:prompt_tokens_by_source_total", source="local_compute") == 48
    assert value(samples, "jaxllm:prompt_tokens_by_source_total", source="local_cache_hit") == 32
    assert value(samples, "jaxllm:request_prefill_kv_computed_tokens_sum") == 48


def test_refused_requests_are_counted(start) -> None:
    client = start(config={"max_num_queued_reqs": 1})
    with client.context.admission.enter(1):
        client.post("/v1/completions", {"prompt": "hi"})
    assert value(scrape(client), "jaxllm:admission_rejections_total", reason="requests") == 1


def test_vllms_names_come_on_request(start) -> None:
    client = start({"hi": "hello"}, config={"vllm_metric_names": True})
    client.complete("hi")
    samples = scrape(client)
    for prefix in ("jaxllm:", "vllm:"):
        assert value(samples, f"{prefix}generation_tokens_total") == 6
        assert value(samples, f"{prefix}time_to_first_token_seconds_count") == 1


def test_http_requests_are_counted_by_route(start) -> None:
    client = start()
    client.complete("hi")
    client.post("/v1/completions", {})
    client.get("/nothing")
    client.get("/health")
    samples = scrape(client)
    handlers = {dict(key[1:])["handler"]: count for key, count in samples.items() if key[0] == "http_requests_total"}
    assert set(handlers) == {"/v1/completions", "none"}
    labels = (("handler", "/v1/completions"), ("method", "POST"))
    assert samples["http_requests_total", *labels, ("status", "2xx")] == 1
    assert samples["http_requests_total", *labels, ("status", "4xx")] == 1
    assert samples["http_request_duration_seconds_count", *labels] == 2


def test_cache_is_described(client) -> None:
    labels = {
        "block_size": "16",
        "num_gpu_blocks": "129",
        "enable_prefix_caching": "True",
        "gpu_memory_utilization": "0.92",
    }
    assert value(scrape(client), "jaxllm:cache_config_info", **labels) == 1


def test_open_metrics_are_spoken_to_those_who_ask(client) -> None:
    response = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


def test_two_servers_do_not_share_metrics(start) -> None:
    one, other = start(), start()
    one.complete("hi")
    assert value(scrape(one), "jaxllm:generation_tokens_total") == 3
    assert value(scrape(other), "jaxllm:generation_tokens_total") == 0


def test_histogram_counts_values_up_to_each_bound() -> None:
    histogram = Histogram("x", "X.", (1.0, 2.0))
    histogram.add([0.5, 1.0, 1.5, 7.0, None])
    samples = {
        (sample.name, sample.labels.get("le")): sample.value for sample in histogram.family("p:", {"a": "b"}).samples
    }
    assert samples == {
        ("p:x_bucket", "1.0"): 2,
        ("p:x_bucket", "2.0"): 3,
        ("p:x_bucket", "+Inf"): 4,
        ("p:x_count", None): 4,
        ("p:x_sum", None): 10.0,
    }


def test_token_buckets_go_up_to_the_context() -> None:
    assert one_two_five(64) == (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
