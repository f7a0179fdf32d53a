"""Command-line flags from dataclasses: one flag per field, so that commands share flags instead of repeating them."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from typer import BadParameter, Option

if TYPE_CHECKING:
    from jaxllm.config import EngineConfig

JSON_METAVAR = "JSON"
"""Marks the flags that take a mapping, in help and for the rewriting of command lines."""

OTHER_ENGINE_ARGUMENTS = "other_engine_arguments"


def parse_json_object(text: str) -> dict[str, Any]:
    """A JSON object given as text."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise BadParameter(f"{text!r} is not a JSON object")
    return value


def json_option(*spellings: str, help: str, hidden: bool = False) -> Any:
    """A flag that takes a mapping: a JSON object, or single entries as `--flag.key value`.

    The field's annotation is `Annotated[dict[str, Any] | None, json_option(help="...")]`.
    """
    return Option(*spellings, parser=parse_json_object, metavar=JSON_METAVAR, help=help, hidden=hidden)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Flags on which model is meant."""

    model: Annotated[str, Option(help="Local directory, .gguf file, hub id, or name of an embedded model.")] = (
        "smollm2-135m"
    )
    revision: Annotated[str | None, Option(help="Branch, tag or commit of the hub model.")] = None
    hf_token: Annotated[str | None, Option(help="Hub token, if not the stored one.")] = None
    download_dir: Annotated[str | None, Option(help="Where hub files are kept.")] = None
    hf_overrides: Annotated[dict[str, Any] | None, json_option(help="Changes to the model's configuration.")] = None


@dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """Flags that decide how much memory a model takes."""

    dtype: Annotated[str | None, Option(help="Type of weights and activations: auto, bfloat16, float32...")] = None
    kv_cache_dtype: Annotated[
        str | None, Option(help="Type of keys and values in the cache: auto, bfloat16, fp8, fp8_e5m2...")
    ] = None
    device: Annotated[str | None, Option(help="auto, cpu, gpu or tpu.")] = None
    tensor_parallel_size: Annotated[
        int | None, Option("--tensor-parallel-size", "-tp", min=1, help="Devices that share each layer.")
    ] = None
    max_model_len: Annotated[
        str | None, Option(help="Longest prompt plus output, in tokens; also 8k, or auto for what fits.")
    ] = None
    max_num_seqs: Annotated[int | None, Option(min=1, help="Most sequences in one step.")] = None
    max_num_batched_tokens: Annotated[str | None, Option(help="Most tokens in one step; also 8k.")] = None
    page_size: Annotated[
        int | None, Option("--page-size", "--block-size", min=1, help="Tokens per page of the KV cache.")
    ] = None
    device_memory_utilization: Annotated[
        float | None,
        Option(
            "--device-memory-utilization",
            "--gpu-memory-utilization",
            help="Share of the device's memory for weights, cache and workspace.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class EngineOptions(SizeOptions, ModelOptions):
    """Flags that become keyword arguments of `JaxLLM`; one that is not given keeps the engine's default."""

    tokenizer: Annotated[str | None, Option(help="Where the tokenizer is, if not with the model.")] = None
    tokenizer_mode: Annotated[str | None, Option(help="auto, hf (the same), or slow.")] = None
    skip_tokenizer_init: Annotated[
        bool | None, Option(help="Load no tokenizer: prompts and outputs are token ids.")
    ] = None
    trust_remote_code: Annotated[
        bool | None, Option(help="Let the model's own tokenizer and configuration code run.")
    ] = None
    tokenizer_revision: Annotated[str | None, Option(help="Branch, tag or commit of the tokenizer.")] = None
    load_format: Annotated[
        str | None, Option(help="How weights are stored; 'dummy' makes random ones from the configuration alone.")
    ] = None
    use_tqdm_on_load: Annotated[bool | None, Option(help="Show progress while loading and compiling.")] = None
    kv_cache_memory_bytes: Annotated[str | None, Option(help="Size of the KV cache, such as 2GiB.")] = None
    swap_space: Annotated[
        float | None, Option(help="GiB of host memory per device for the KV entries of preempted requests.")
    ] = None
    enable_prefix_caching: Annotated[bool | None, Option(help="Share the pages of equal prefixes.")] = None
    enable_chunked_prefill: Annotated[bool | None, Option(help="Always on.")] = None
    enforce_eager: Annotated[bool | None, Option(help="Refused: steps are compiled programs.")] = None
    seed: Annotated[int, Option(help="Seed of the engine, of dummy weights and of random prompts.")] = 0
    scheduling_policy: Annotated[str | None, Option(help="fcfs, or priority: low numbers first.")] = None
    stream_interval: Annotated[int | None, Option(min=1, help="Tokens per streamed output.")] = None
    max_logprobs: Annotated[int | None, Option(help="Most log-probabilities per position; -1 is no limit.")] = None
    logprobs_mode: Annotated[
        str | None, Option(help="raw_logprobs, processed_logprobs, raw_logits or processed_logits.")
    ] = None
    generation_config: Annotated[
        str | None, Option(help="Default sampling: auto is the model's, jaxllm or vllm none, else a directory.")
    ] = None
    override_generation_config: Annotated[
        dict[str, Any] | None, json_option(help="Default sampling values on top of those.")
    ] = None
    chat_template: Annotated[str | None, Option(help="Chat template: its text, or the path of a file.")] = None
    served_model_name: Annotated[list[str] | None, Option(help="Names under which the model is offered.")] = None
    disable_log_stats: Annotated[bool | None, Option(help="Keep no statistics.")] = None
    compilation_cache_dir: Annotated[str | None, Option(help="Where compiled programs are kept.")] = None
    background_compile: Annotated[
        bool | None, Option(help="Serve on the largest programs while the others compile.")
    ] = None
    other_engine_arguments: Annotated[
        dict[str, Any] | None, json_option(help="Engine arguments of vLLM that have no flag here.", hidden=True)
    ] = None

    def engine_arguments(self) -> dict[str, Any]:
        """Keyword arguments for `JaxLLM` and `make_engine_config`, only those that were given."""
        given = given_values(self, EngineOptions)
        others = given.pop(OTHER_ENGINE_ARGUMENTS, {})
        return given | others

    def engine_config(self) -> EngineConfig:
        """The checked configuration; an argument that jaxllm can't apply is refused by name."""
        from jaxllm.engine_args import make_engine_config

        return make_engine_config(**self.engine_arguments())


def given_values(options: Any, options_type: type[Any]) -> dict[str, Any]:
    """The flags of `options_type` that have a value."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options_type)}
    return {name: value for name, value in values.items() if value is not None}


def takes_options[T](options_type: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Turns a function of one options object into a command with one flag per field of `options_type`, and `--config`.

    Add it to an app with `app.command(cls=FlexibleCommand)` or `cls=ModelCommand` (`jaxllm.cli.command`).
    """

    def decorate(function: Callable[[T], None]) -> Callable[..., None]:
        def command(*, config: str | None, **values: Any) -> None:
            function(options_type(**values))

        command.__name__ = function.__name__
        command.__doc__ = function.__doc__
        hints = get_type_hints(options_type, include_extras=True)
        parameters = [*_parameters(options_type, hints), _CONFIG_PARAMETER]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate


_CONFIG_PARAMETER = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[str | None, Option(metavar="FILE", help="YAML file with values for these flags.")],
)
"""What the file holds has become flags by the time that a command runs."""


def _parameters(options_type: Any, hints: dict[str, Any]) -> list[inspect.Parameter]:
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(options_type)
    ]
