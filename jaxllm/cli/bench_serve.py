"""`jaxllm bench serve`, with vLLM's flags and result files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxllm.cli.bench_serve_options import ServeBenchmarkOptions, TargetOptions, as_flag, check_options
from jaxllm.cli.options import takes_options
from jaxllm.errors import JaxLLMError, ValidationError

if TYPE_CHECKING:
    from jaxllm.bench.served_vocabulary import ServedVocabulary
    from jaxllm.bench.serving import ServingLoad
    from jaxllm.bench.serving_client import ServingEndpoint
    from jaxllm.bench.serving_requests import ServingRequest
    from jaxllm.bench.serving_result import ServingReport, ServingResult


@takes_options(ServeBenchmarkOptions)
def serve(options: ServeBenchmarkOptions) -> None:
    """Send many requests to a server and report throughput and latencies."""
    check_options(options)
    from jaxllm.bench.served_vocabulary import ServedVocabulary
    from jaxllm.bench.serving import find_model, run_serving
    from jaxllm.bench.serving_result import ServingResult

    report = _report(options)
    headers = _headers(options)
    model = options.model or options.served_model_name or find_model(_base_url(options), headers)
    vocabulary = ServedVocabulary(options.tokenizer or model, options.tokenizer_mode, options.trust_remote_code)
    setup = _setup(options, model, vocabulary.name)
    requests = _requests(options, vocabulary)
    endpoint = _endpoint(options, options.served_model_name or model, headers)
    run = run_serving(endpoint, requests, _load(options), use_tqdm=not options.disable_tqdm)
    can_count = vocabulary.is_loaded or options.tokenizer is not None
    result = ServingResult(
        served=run.served,
        duration=run.duration,
        report=report,
        setup=setup,
        count_tokens=vocabulary.count if can_count else None,
    )
    _publish(options, result)


def _publish(options: ServeBenchmarkOptions, result: ServingResult) -> None:
    """Prints and writes the results; no answer at all is an error."""
    from jaxllm.bench.report import write_json

    print(result.summary())
    if result.has_uncounted_tokens:
        print("The server gave no usage: each chunk was counted as one token. --tokenizer counts them exactly.")
    if options.save_result:
        path = _result_path(options, result)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, result.as_json() | (result.details() if options.save_detailed else {}))
        print(f"Results are in {path}")
    if result.errors:
        print(f"{len(result.errors)} requests failed; the first error: {result.errors[0]}")
    if not result.completed:
        raise JaxLLMError("no request was answered")


def _base_url(options: TargetOptions) -> str:
    """Without the /v1 that the endpoints begin with."""
    base_url = options.base_url or f"http://{options.host}:{options.port}"
    return base_url.rstrip("/").removesuffix("/v1")


def _headers(options: TargetOptions) -> dict[str, str]:
    from jaxllm.cli.server_answers import find_api_key

    return {"Authorization": f"Bearer {find_api_key(options.api_key)}", **_pairs("header", options.header, "=")}


def _pairs(name: str, texts: Sequence[str] | None, separator: str) -> dict[str, str]:
    pairs = [text.partition(separator) for text in texts or ()]
    for key, found, value in pairs:
        if not key or not found or not value:
            raise ValidationError(
                f"{as_flag(name)} takes KEY{separator}VALUE, got {key + found + value!r}", parameter=name
            )
    return {key: value for key, _, value in pairs}


def _endpoint(options: ServeBenchmarkOptions, model: str, headers: dict[str, str]) -> ServingEndpoint:
    from jaxllm.bench.serving_client import ServingEndpoint

    is_chat = options.backend == "openai-chat"
    suffix = "chat/completions" if is_chat else "completions"
    path = options.endpoint or f"/v1/{suffix}"
    if not path.endswith(suffix) or path.endswith("chat/completions") is not is_chat:
        raise ValidationError(
            f"--endpoint of --backend {options.backend} must end in {suffix}, got {path}", parameter="endpoint"
        )
    names = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
    fields = {name: getattr(options, name) for name in (*names, "logprobs") if getattr(options, name) is not None}
    if options.ignore_eos or options.dataset_name == "random":
        fields["ignore_eos"] = True
    return ServingEndpoint(
        url=f"{_base_url(options)}/{path.lstrip('/')}",
        is_chat=is_chat,
        fields={"model": model, **fields, **(options.extra_body or {})},
        headers=headers,
    )


def _load(options: ServeBenchmarkOptions) -> ServingLoad:
    from jaxllm.bench.serving import ServingLoad

    return ServingLoad(
        request_rate=options.request_rate,
        burstiness=options.burstiness,
        max_concurrency=options.max_concurrency,
        seed=options.seed,
        num_warmups=options.num_warmups,
        ready_timeout=options.ready_check_timeout_sec,
    )


def _requests(options: ServeBenchmarkOptions, vocabulary: ServedVocabulary) -> list[ServingRequest]:
    from jaxllm.bench.serving_requests import as_texts, as_token_ids, ragged_random_requests
    from jaxllm.bench.sharegpt import sharegpt_requests

    if options.dataset_name == "custom":
        return _custom_requests(options, vocabulary)
    if options.dataset_name == "random":
        requests = ragged_random_requests(
            num_requests=options.num_prompts,
            input_len=options.random_input_len or options.input_len or 1024,
            output_len=options.random_output_len or options.output_len or 128,
            range_ratio=options.random_range_ratio or 0.0,
            prefix_len=options.random_prefix_len or 0,
            vocab_size=vocabulary.size,
            seed=options.seed,
        )
    else:
        assert options.dataset_path is not None, "check_options was not called"
        requests = sharegpt_requests(
            path=options.dataset_path,
            encode=vocabulary.tokenizer.encode,
            num_requests=options.num_prompts,
            output_len=options.sharegpt_output_len or options.output_len,
            seed=options.seed,
        )
    if options.backend == "openai-chat" or options.prompts_as_text:
        return as_texts(requests, vocabulary.tokenizer.decode)
    return as_token_ids(requests)


def _custom_requests(options: ServeBenchmarkOptions, vocabulary: ServedVocabulary) -> list[ServingRequest]:
    from jaxllm.bench.serving_requests import custom_requests

    assert options.dataset_path is not None, "check_options was not called"
    is_raw = options.backend == "openai-chat" or options.custom_skip_chat_template

    def render(prompt: str) -> str | list[int]:
        from jaxllm.text.chat_template import render_chat

        if is_raw:
            return prompt
        text = render_chat(vocabulary.tokenizer, [{"role": "user", "content": prompt}])
        return vocabulary.tokenizer.encode(text, add_special_tokens=False)

    return custom_requests(
        path=options.dataset_path,
        render=render,
        num_requests=options.num_prompts,
        output_len=options.custom_output_len or options.output_len or 256,
        seed=options.seed,
        is_shuffled=not options.disable_shuffle,
    )


def _report(options: ServeBenchmarkOptions) -> ServingReport:
    from jaxllm.bench.serving_result import ServingReport

    limits = _pairs("goodput", options.goodput, ":")
    return ServingReport(
        metrics=tuple(name.strip() for name in options.percentile_metrics.split(",")),
        percentages=_numbers("metric_percentiles", options.metric_percentiles.split(",")),
        goodput=dict(zip(limits, _numbers("goodput", limits.values()), strict=True)) or None,
    )


def _numbers(name: str, texts: Any) -> tuple[float, ...]:
    try:
        return tuple(float(text) for text in texts)
    except ValueError as error:
        raise ValidationError(f"{as_flag(name)} takes numbers: {error}", parameter=name) from None


def _setup(options: ServeBenchmarkOptions, model: str, tokenizer: str) -> dict[str, Any]:
    """What was asked for, under vLLM's keys."""
    return {
        "date": datetime.now().strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": options.backend,
        "backend": options.backend,
        "label": options.label,
        "model_id": model,
        "tokenizer_id": tokenizer,
        "num_prompts": options.num_prompts,
        **_pairs("metadata", options.metadata, "="),
        "request_rate": "inf" if options.request_rate == float("inf") else options.request_rate,
        "burstiness": options.burstiness,
        "max_concurrency": options.max_concurrency,
    }


def _result_path(options: ServeBenchmarkOptions, result: ServingResult) -> Path:
    folder = Path(options.result_dir or ".")
    if options.result_filename is not None:
        return folder / options.result_filename
    setup = result.setup
    concurrency = "" if options.max_concurrency is None else f"-concurrency{options.max_concurrency}"
    model = str(setup["model_id"]).rstrip("/").split("/")[-1]
    label = options.label or options.backend
    return folder / f"{label}-{setup['request_rate']}qps{concurrency}-{model}-{setup['date']}.json"
