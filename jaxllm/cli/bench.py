"""`jaxllm bench serve|throughput|latency|startup`, with vLLM's flags and result files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Option

from jaxllm.cli.bench_serve import serve
from jaxllm.cli.command import FlexibleCommand
from jaxllm.cli.options import EngineOptions, takes_options
from jaxllm.errors import ValidationError

if TYPE_CHECKING:
    from jaxllm.bench.report import Result
    from jaxllm.bench.workload import BenchmarkRequest, BenchmarkSampling
    from jaxllm.llm import JaxLLM

bench_app = typer.Typer(
    name="bench", help="Measure serving, throughput, latency or start-up time.", no_args_is_help=True
)
bench_app.command(cls=FlexibleCommand)(serve)


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Flags on how tokens are drawn."""

    n: Annotated[int, Option(min=1, help="Completions per prompt.")] = 1
    temperature: Annotated[float, Option(help="0 is greedy.")] = 1.0
    top_p: Annotated[float, Option(help="1 keeps all tokens.")] = 1.0
    top_k: Annotated[int, Option(help="0 keeps all tokens.")] = 0
    disable_detokenize: Annotated[bool, Option(help="Measure without turning tokens into text.")] = False
    output_json: Annotated[str | None, Option(help="Write the results to this file.")] = None


@dataclass(frozen=True, kw_only=True)
class ThroughputOptions(SamplingOptions, EngineOptions):
    """Flags of `bench throughput`."""

    dataset_name: Annotated[
        Literal["random", "sharegpt"], Option(help="Random token ids, or conversations of a ShareGPT file.")
    ] = "random"
    dataset_path: Annotated[str | None, Option(help="The ShareGPT JSON file.")] = None
    num_prompts: Annotated[int, Option(min=1, help="Number of requests.")] = 1000
    input_len: Annotated[int | None, Option(min=1, help="Tokens per random prompt, 1024 if not given.")] = None
    output_len: Annotated[
        int | None, Option(min=1, help="Tokens to generate: 128, or as long as ShareGPT's replies, if not given.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class LatencyOptions(SamplingOptions, EngineOptions):
    """Flags of `bench latency`. The prefix cache is off unless asked for: the same prompts run again and again."""

    enable_prefix_caching: Annotated[bool | None, Option(help="Share the pages of equal prefixes.")] = False
    batch_size: Annotated[int, Option(min=1, help="Requests per call.")] = 8
    input_len: Annotated[int, Option(min=1, help="Tokens per random prompt.")] = 32
    output_len: Annotated[int, Option(min=1, help="Tokens to generate per request.")] = 128
    num_iters_warmup: Annotated[int, Option(min=0, help="Calls before measuring.")] = 10
    num_iters: Annotated[int, Option(min=1, help="Measured calls.")] = 30


@dataclass(frozen=True, kw_only=True)
class StartupOptions(EngineOptions):
    """Flags of `bench startup`."""

    num_iters_cold: Annotated[int, Option(min=0, help="Processes that start with an empty cache.")] = 3
    num_iters_warmup: Annotated[int, Option(min=0, help="Processes that fill the cache and are not counted.")] = 1
    num_iters_warm: Annotated[int, Option(min=0, help="Processes that start with a full cache.")] = 3
    output_json: Annotated[str | None, Option(help="Write the results to this file.")] = None


@bench_app.command(cls=FlexibleCommand)
@takes_options(ThroughputOptions)
def throughput(options: ThroughputOptions) -> None:
    """Run many requests at once and report requests/s and tokens/s."""
    _check_dataset(options)
    from jaxllm.bench.throughput import run_throughput

    def measure(llm: JaxLLM) -> Result:
        requests = _throughput_requests(options, llm)
        return run_throughput(llm, requests, _sampling(options), model_id=options.model)

    _with_llm(options, measure, options.output_json)


@bench_app.command(cls=FlexibleCommand)
@takes_options(LatencyOptions)
def latency(options: LatencyOptions) -> None:
    """Run one batch again and again and report the latency of the whole batch and of its tokens."""
    from jaxllm.bench.latency import run_latency
    from jaxllm.bench.workload import random_requests

    def measure(llm: JaxLLM) -> Result:
        requests = random_requests(
            num_requests=options.batch_size,
            input_len=options.input_len,
            output_len=options.output_len,
            vocab_size=llm.vocab_size,
            seed=options.seed,
        )
        return run_latency(
            llm,
            requests,
            _sampling(options),
            model_id=options.model,
            num_iters_warmup=options.num_iters_warmup,
            num_iters=options.num_iters,
        )

    _with_llm(options, measure, options.output_json)


@bench_app.command(cls=FlexibleCommand)
@takes_options(StartupOptions)
def startup(options: StartupOptions) -> None:
    """Start fresh processes and report how long each phase takes until the first token."""
    from jaxllm.bench.report import report
    from jaxllm.bench.startup import run_startup

    result = run_startup(
        options.engine_arguments(),
        num_iters_cold=options.num_iters_cold,
        num_iters_warmup=options.num_iters_warmup,
        num_iters_warm=options.num_iters_warm,
    )
    report(result, options.output_json)


def _with_llm(options: EngineOptions, measure: Callable[[JaxLLM], Result], output_json: str | None) -> None:
    """Makes the engine, measures once all its programs are there, reports, and shuts it down whatever happens."""
    from jaxllm.bench.report import report
    from jaxllm.llm import JaxLLM

    llm = JaxLLM(**options.engine_arguments())
    try:
        llm.wait_until_compiled()
        report(measure(llm), output_json)
    finally:
        llm.shutdown()


def _sampling(options: ThroughputOptions | LatencyOptions) -> BenchmarkSampling:
    from jaxllm.bench.workload import BenchmarkSampling

    return BenchmarkSampling(
        n=options.n,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        detokenize=not (options.disable_detokenize or options.skip_tokenizer_init),
    )


def _check_dataset(options: ThroughputOptions) -> None:
    """Refuses flags that the chosen dataset would ignore or lacks, before the model is loaded."""
    if options.dataset_name == "random":
        if options.dataset_path is not None:
            raise ValidationError("--dataset-path needs --dataset-name sharegpt, got random", parameter="dataset_path")
        return
    if options.dataset_path is None:
        raise ValidationError("--dataset-name sharegpt needs --dataset-path, got none", parameter="dataset_path")
    if options.input_len is not None:
        raise ValidationError(
            f"--input-len is for --dataset-name random, got {options.input_len} with sharegpt", parameter="input_len"
        )
    if options.skip_tokenizer_init:
        raise ValidationError(
            "--dataset-name sharegpt needs the tokenizer, got --skip-tokenizer-init", parameter="skip_tokenizer_init"
        )


def _throughput_requests(options: ThroughputOptions, llm: JaxLLM) -> list[BenchmarkRequest]:
    from jaxllm.bench.sharegpt import sharegpt_requests
    from jaxllm.bench.workload import random_requests

    if options.dataset_name == "random":
        return random_requests(
            num_requests=options.num_prompts,
            input_len=options.input_len or 1024,
            output_len=options.output_len or 128,
            vocab_size=llm.vocab_size,
            seed=options.seed,
        )
    assert options.dataset_path is not None, "_check_dataset was not called"
    return sharegpt_requests(
        path=options.dataset_path,
        encode=llm.get_tokenizer().encode,
        num_requests=options.num_prompts,
        output_len=options.output_len,
        seed=options.seed,
    )
