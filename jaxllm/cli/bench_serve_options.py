"""The flags of `jaxllm bench serve`, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from typer import Option

from jaxllm.cli.options import json_option
from jaxllm.errors import ValidationError


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """Flags on the server and what every request says."""

    backend: Annotated[
        Literal["openai", "vllm", "jaxllm", "openai-chat"],
        Option(help="openai, vllm and jaxllm are the same: completions; openai-chat sends prompts as messages."),
    ] = "openai"
    base_url: Annotated[str | None, Option(help="Server, if not http://HOST:PORT.")] = None
    host: Annotated[str, Option(help="Host of the server.")] = "127.0.0.1"
    port: Annotated[int, Option(help="Port of the server.")] = 8000
    endpoint: Annotated[
        str | None, Option(help="Path, if not /v1/completions or /v1/chat/completions, as the backend says.")
    ] = None
    model: Annotated[str | None, Option(help="Model to ask for; the first that the server lists if not given.")] = None
    served_model_name: Annotated[str | None, Option(help="Its name in requests, if not --model.")] = None
    tokenizer: Annotated[str | None, Option(help="Where tokenizer and vocabulary are, if not at --model.")] = None
    tokenizer_mode: Annotated[str, Option(help="auto, hf (the same), or slow.")] = "auto"
    trust_remote_code: Annotated[bool, Option(help="Let the tokenizer's own code run.")] = False
    api_key: Annotated[
        str | None, Option(help="Key of the server; else OPENAI_API_KEY or JAXLLM_API_KEY, else EMPTY.")
    ] = None
    header: Annotated[list[str] | None, Option(help="KEY=VALUE headers of every request.")] = None
    ignore_eos: Annotated[
        bool, Option(help="Generate to the full length whatever is drawn; random prompts always do.")
    ] = False
    temperature: Annotated[float, Option(min=0, help="0 is greedy.")] = 0.0
    top_p: Annotated[float | None, Option(help="The server's default if not given, like the following.")] = None
    top_k: Annotated[int | None, Option(help="Most likely tokens to draw from.")] = None
    min_p: Annotated[float | None, Option(help="Least probability, as a share of the largest.")] = None
    presence_penalty: Annotated[float | None, Option(help="On tokens that were generated.")] = None
    frequency_penalty: Annotated[float | None, Option(help="On tokens, by how often they were generated.")] = None
    repetition_penalty: Annotated[float | None, Option(help="On tokens of prompt and output.")] = None
    logprobs: Annotated[int | None, Option(min=0, help="Log-probabilities per token of completions.")] = None
    extra_body: Annotated[dict[str, Any] | None, json_option(help="More fields of every request.")] = None


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Flags on the prompts."""

    dataset_name: Annotated[
        Literal["random", "sharegpt", "custom"],
        Option(help="Random token ids, conversations of a ShareGPT file, or a JSONL file with prompts."),
    ] = "random"
    dataset_path: Annotated[str | None, Option(help="The file of sharegpt or custom.")] = None
    num_prompts: Annotated[int, Option(min=1, help="Number of requests.")] = 1000
    seed: Annotated[int, Option(help="Seed of prompts, their order, and the times between them.")] = 0
    input_len: Annotated[int | None, Option(min=1, help="The same as --random-input-len.")] = None
    output_len: Annotated[int | None, Option(min=1, help="The dataset's --...-output-len.")] = None
    random_input_len: Annotated[int | None, Option(min=1, help="Tokens per prompt, 1024 if not given.")] = None
    random_output_len: Annotated[int | None, Option(min=1, help="Tokens to generate, 128 if not given.")] = None
    random_range_ratio: Annotated[
        float | None, Option(help="Lengths are uniform in [1 - ratio, 1 + ratio] times those; 0 if not given.")
    ] = None
    random_prefix_len: Annotated[int | None, Option(min=0, help="Tokens that all prompts start with.")] = None
    sharegpt_output_len: Annotated[
        int | None, Option(min=1, help="Tokens to generate, if not as many as the reply has.")
    ] = None
    custom_output_len: Annotated[
        int | None, Option(min=-1, help="Tokens to generate, 256 if not given; -1 takes output_tokens of the file.")
    ] = None
    custom_skip_chat_template: Annotated[
        bool, Option("--custom-skip-chat-template", "--skip-chat-template", help="Send custom prompts as they are.")
    ] = False
    disable_shuffle: Annotated[bool, Option(help="Take custom prompts in the order of the file.")] = False
    prompts_as_text: Annotated[bool, Option(help="Send text to completions instead of token ids.")] = False


@dataclass(frozen=True, kw_only=True)
class ServeBenchmarkOptions(TargetOptions, DatasetOptions):
    """Flags of `bench serve`."""

    request_rate: Annotated[float, Option(help="Requests per second; inf sends all at once.")] = float("inf")
    burstiness: Annotated[
        float, Option(help="Shape of the times between requests: 1 is Poisson, less is burstier.")
    ] = 1.0
    max_concurrency: Annotated[int | None, Option(min=1, help="Most requests at once.")] = None
    num_warmups: Annotated[int, Option(min=0, help="Requests before the measured ones.")] = 0
    ready_check_timeout_sec: Annotated[float, Option(min=0, help="Seconds to wait for the server to answer.")] = 0.0
    percentile_metrics: Annotated[str, Option(help="What to report: ttft, tpot, itl, e2el.")] = "ttft,tpot,itl"
    metric_percentiles: Annotated[str, Option(help="Percentiles of each, such as 50,99.")] = "99"
    goodput: Annotated[
        list[str] | None, Option(help="Most milliseconds of a good request, such as ttft:500 tpot:50.")
    ] = None
    save_result: Annotated[bool, Option(help="Write the results to a JSON file.")] = False
    save_detailed: Annotated[bool, Option(help="Write the times and texts of each request too.")] = False
    result_dir: Annotated[str | None, Option(help="Folder of the file.")] = None
    result_filename: Annotated[str | None, Option(help="Its name, if not made of rate, model and time.")] = None
    metadata: Annotated[list[str] | None, Option(help="KEY=VALUE entries for the file.")] = None
    label: Annotated[str | None, Option(help="Label in the file and its name, if not the backend.")] = None
    disable_tqdm: Annotated[bool, Option(help="Show no progress.")] = False
    profile: Annotated[bool, Option(help="Refused: there is no profiler in the server.")] = False


DATASET_FLAGS = {
    "random": ("random_input_len", "random_output_len", "random_range_ratio", "random_prefix_len", "input_len"),
    "sharegpt": ("sharegpt_output_len", "dataset_path"),
    "custom": ("custom_output_len", "dataset_path", "custom_skip_chat_template", "disable_shuffle"),
}
"""The flags that only some datasets heed."""


def check_options(options: ServeBenchmarkOptions) -> None:
    """Refuses flags that would change nothing, before anything is loaded or sent."""
    if options.profile:
        raise ValidationError("--profile is not supported: the server has no profiler to start", parameter="profile")
    heeded = DATASET_FLAGS[options.dataset_name]
    for name in {name for flags in DATASET_FLAGS.values() for name in flags} - set(heeded):
        if getattr(options, name) not in (None, False):
            raise ValidationError(
                f"{as_flag(name)} is not for --dataset-name {options.dataset_name}, got {getattr(options, name)}",
                parameter=name,
            )
    if options.dataset_name != "random" and options.dataset_path is None:
        raise ValidationError(
            f"--dataset-name {options.dataset_name} needs --dataset-path, got none", parameter="dataset_path"
        )
    _refuse_twice(options, "input_len", "random_input_len")
    _refuse_twice(options, "output_len", f"{options.dataset_name}_output_len")
    if options.save_detailed and not options.save_result:
        raise ValidationError("--save-detailed needs --save-result", parameter="save_detailed")


def _refuse_twice(options: ServeBenchmarkOptions, general: str, special: str) -> None:
    values = getattr(options, general), getattr(options, special)
    if None not in values and values[0] != values[1]:
        raise ValidationError(
            f"{as_flag(general)} is {as_flag(special)}: give one, got {values[0]} and {values[1]}", parameter=general
        )


def as_flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
