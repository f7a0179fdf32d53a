"""Command-line flags from dataclasses: one flag per field, so that commands share flags instead of repeating them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

from typer import Option


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Flags that become keyword arguments of `JaxLLM`; one that is not given keeps the engine's default."""

    model: Annotated[str, Option(help="Local directory, .gguf file, hub id, or name of an embedded model.")] = (
        "smollm2-135m"
    )
    tokenizer: Annotated[str | None, Option(help="Where the tokenizer is, if not with the model.")] = None
    skip_tokenizer_init: Annotated[
        bool | None, Option("--skip-tokenizer-init", help="Load no tokenizer: prompts and outputs are token ids.")
    ] = None
    load_format: Annotated[
        str | None, Option(help="How weights are stored; 'dummy' makes random ones from the configuration alone.")
    ] = None
    dtype: Annotated[str | None, Option(help="Type of weights and activations: auto, bfloat16, float32...")] = None
    max_model_len: Annotated[
        str | None, Option(help="Longest prompt plus output, in tokens; also 8k, or auto for what fits.")
    ] = None
    max_num_seqs: Annotated[int | None, Option(min=1, help="Most sequences in one step.")] = None
    max_num_batched_tokens: Annotated[int | None, Option(min=1, help="Most tokens in one step.")] = None
    page_size: Annotated[int | None, Option(min=1, help="Tokens per page of the KV cache.")] = None
    kv_cache_memory_bytes: Annotated[str | None, Option(help="Size of the KV cache, such as 2GiB.")] = None
    device_memory_utilization: Annotated[
        float | None,
        Option(
            "--device-memory-utilization",
            "--gpu-memory-utilization",
            help="Share of the device's memory for weights, cache and workspace.",
        ),
    ] = None
    enable_prefix_caching: Annotated[bool | None, Option(help="Share the pages of equal prefixes.")] = None
    tensor_parallel_size: Annotated[int | None, Option(min=1, help="Devices that share each layer.")] = None
    device: Annotated[str | None, Option(help="auto, cpu, gpu or tpu.")] = None
    revision: Annotated[str | None, Option(help="Branch, tag or commit of the hub model.")] = None
    trust_remote_code: Annotated[
        bool | None, Option("--trust-remote-code", help="Let the model's own tokenizer and configuration code run.")
    ] = None
    seed: Annotated[int, Option(help="Seed of the engine, of dummy weights and of random prompts.")] = 0

    def engine_arguments(self) -> dict[str, Any]:
        """Keyword arguments for `JaxLLM`, only those that were given."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(EngineOptions)}
        return {name: value for name, value in values.items() if value is not None}


def takes_options[T](options_type: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Turns a function of one options object into a command with one flag per field of `options_type`."""

    def decorate(function: Callable[[T], None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            function(options_type(**values))

        command.__name__ = function.__name__
        command.__doc__ = function.__doc__
        hints = get_type_hints(options_type, include_extras=True)
        parameters = _parameters(options_type, hints)
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate


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
