"""From vLLM-style keyword arguments to an `EngineConfig`: aliases, legacy names, and clear refusals."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Any

from jaxllm.config import EngineConfig
from jaxllm.errors import ValidationError
from jaxllm.legacy import warn_deprecated

ALIASES = {"gpu_memory_utilization": "device_memory_utilization", "block_size": "page_size"}

LEGACY_NAMES = ("max_seq_len_to_capture", "disable_async_output_proc", "disable_log_requests")
"""Changed nothing in vLLM's results either; any value passes with a warning."""

HARMLESS_VALUES: dict[str, tuple[Any, ...]] = {
    "additional_config": (None, {}),
    "allowed_local_media_path": ("", None),
    "allowed_media_domains": (None,),
    "async_scheduling": (None, True),
    "attention_backend": (None, "auto"),
    "attention_config": (None,),
    "code_revision": (None,),
    "compilation_config": (None,),
    "config_format": ("auto",),
    "convert": ("auto", "none"),
    "cpu_offload_gb": (0,),
    "cudagraph_metrics": (False,),
    "custom_histogram_buckets": (None,),
    "data_parallel_size": (1,),
    "disable_custom_all_reduce": (False, True),
    "distributed_executor_backend": (None, "uni"),
    "enable_expert_parallel": (False,),
    "enable_fault_tolerance": (False,),
    "enable_log_requests": (False,),
    "enable_lora": (False,),
    "enable_mfu_metrics": (False,),
    "enable_prompt_embeds": (False,),
    "enable_return_routed_experts": (False,),
    "enable_sleep_mode": (False,),
    "hf_config_path": (None,),
    "kernel_config": (None,),
    "kv_cache_metrics": (False,),
    "kv_offloading_backend": (None, "native"),
    "kv_offloading_size": (None,),
    "kv_transfer_config": (None,),
    "language_model_only": (False, True),
    "limit_mm_per_prompt": (None, {}),
    "linear_backend": (None, "auto"),
    "logits_processors": (None,),
    "lora_modules": (None,),
    "master_addr": ("127.0.0.1",),
    "master_port": (29501,),
    "max_cpu_loras": (None,),
    "max_lora_rank": (16,),
    "max_loras": (1,),
    "media_io_kwargs": (None, {}),
    "mm_processor_cache_gb": (0, 4),
    "mm_processor_kwargs": (None, {}),
    "model_impl": ("auto",),
    "model_loader_extra_config": (None, {}),
    "moe_backend": (None, "auto"),
    "nnodes": (1,),
    "node_rank": (0,),
    "num_gpu_blocks_override": (None,),
    "offload_group_size": (0,),
    "offload_num_in_group": (1,),
    "offload_params": (None,),
    "offload_prefetch_step": (1,),
    "optimization_level": (None,),
    "otlp_traces_endpoint": (None,),
    "override_pooler_config": (None,),
    "performance_mode": ("balanced",),
    "pipeline_parallel_size": (1,),
    "pooler_config": (None,),
    "profiler_config": (None,),
    "quantization": (None,),
    "quantization_config": (None,),
    "reasoning_parser": ("", None),
    "return_sampling_mask": (False,),
    "runner": ("auto", "generate"),
    "scheduler_cls": (None,),
    "show_hidden_metrics_for_version": (None,),
    "shutdown_timeout": (0,),
    "spec_method": (None,),
    "spec_model": (None,),
    "spec_tokens": (None,),
    "speculative_config": (None,),
    "structured_outputs_config": (None,),
    "watchdog_config": (None,),
    "worker_cls": (None, "auto"),
    "worker_extension_cls": ("", None),
}
"""Arguments of vLLM that jaxllm doesn't apply, with the values under which that changes nothing."""


def make_engine_config(model: str | Path, **arguments: Any) -> EngineConfig:
    """The configuration for `model` and vLLM-style keyword arguments; nothing is ever dropped in silence."""
    return EngineConfig(model=str(model) if isinstance(model, Path) else model, **_as_fields(arguments))


class EngineArgs(EngineConfig):
    """An EngineConfig made from vLLM's names, under vLLM's name; for `from_engine_args`."""

    def __init__(self, model: str | Path, **arguments: Any) -> None:
        super().__init__(model=str(model) if isinstance(model, Path) else model, **_as_fields(arguments))


class AsyncEngineArgs(EngineArgs):
    """The same for `AsyncJaxLLM`, which keeps statistics unless told otherwise."""

    def __init__(self, model: str | Path, **arguments: Any) -> None:
        super().__init__(model, **({"disable_log_stats": False} | arguments))


def _as_fields(arguments: dict[str, Any]) -> dict[str, Any]:
    fields = {field.name for field in dataclasses.fields(EngineConfig)}
    values: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in ALIASES:
            _refuse_contradiction(name, ALIASES[name], arguments)
            values[ALIASES[name]] = value
        elif name in fields:
            values[name] = value
        elif name == "task":
            _accept_task(value)
        elif name in LEGACY_NAMES:
            warn_deprecated(f"{name} is deprecated and changes nothing")
        elif name in HARMLESS_VALUES:
            _refuse_unsupported(name, value)
        else:
            raise TypeError(_unknown_message(name, fields))
    return values


def _refuse_contradiction(alias: str, name: str, arguments: dict[str, Any]) -> None:
    if name in arguments and arguments[name] != arguments[alias]:
        raise ValidationError(
            f"{alias} is another name of {name}: give one, got {arguments[alias]!r} and {arguments[name]!r}",
            parameter=name,
        )


def _accept_task(value: Any) -> None:
    if value not in ("auto", "generate"):
        raise ValidationError(f"task must be 'auto' or 'generate', got {value!r}", parameter="task")
    warn_deprecated("task is deprecated and changes nothing: jaxllm generates text")


def _refuse_unsupported(name: str, value: Any) -> None:
    harmless = HARMLESS_VALUES[name]
    if not any(value == option and isinstance(value, bool) is isinstance(option, bool) for option in harmless):
        allowed = " or ".join(repr(option) for option in harmless)
        raise ValidationError(f"{name} is not supported yet: leave it at {allowed}, got {value!r}", parameter=name)


def _unknown_message(name: str, fields: set[str]) -> str:
    known = [*fields, *ALIASES, *LEGACY_NAMES, *HARMLESS_VALUES, "task"]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"unexpected keyword argument {name!r}{hint}"
