"""What an engine is built from: one frozen configuration, checked at construction."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxllm.errors import ValidationError
from jaxllm.validation import check_bool, check_choice, check_float, check_int, check_list, check_str, describe, fail

DTYPES = ("auto", "float32", "bfloat16", "float16")
DTYPE_ALIASES = {"half": "float16", "float": "float32"}
KV_CACHE_DTYPES = ("auto", "float32", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2")
LOAD_FORMATS = ("auto", "safetensors", "pt", "gguf", "orbax", "dummy")
LOGPROBS_MODES = ("raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits")
GENERATION_CONFIG_KEYS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "max_new_tokens",
    "skip_special_tokens",
)
"""The values that a model's generation_config.json gives to default sampling parameters."""

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtKMGT]?)(i?B)?")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Everything that `build_engine` needs; None means that the model or the device decides."""

    model: str
    """Local directory, `.gguf` file, hub id, or the name of an embedded model."""
    tokenizer: str | None = None
    """Where the tokenizer comes from, if not from the model: a directory, a file or a hub id."""
    tokenizer_mode: str = "auto"
    """"auto" (or "hf", the same) prefers the native tokenizer, "slow" the one in Python."""
    skip_tokenizer_init: bool = False
    """Work on token ids alone: prompts must be token ids, and texts stay empty."""
    trust_remote_code: bool = False
    """Whether the model's own tokenizer and configuration code may run."""
    revision: str | None = None
    """Branch, tag or commit of the hub model."""
    tokenizer_revision: str | None = None
    """The same for the tokenizer; None means `revision`."""
    hf_token: bool | str | None = dataclasses.field(default=None, repr=False)
    """Hub token; True reads the stored one."""
    download_dir: str | None = None
    """Where hub files are kept; None is the hub client's own cache."""
    load_format: str = "auto"
    """Which weight files to read: one of `LOAD_FORMATS`; "dummy" makes random weights from the configuration."""
    use_tqdm_on_load: bool = True
    """Show progress bars while loading and compiling."""
    dtype: str = "auto"
    """Weights and activations: one of `DTYPES` ("half" and "float" are aliases; a jax or numpy dtype is fine)."""
    kv_cache_dtype: str = "auto"
    """Keys and values in the cache: one of `KV_CACHE_DTYPES`; "auto" is `dtype`, "fp8" is "fp8_e4m3". With 8 bits it
    holds twice as many tokens as with 16, and rounds them. What is too large for the type becomes its largest value."""
    max_model_len: int | Literal["auto"] | None = None
    """Longest prompt plus output. Also "8k" (8000), "8K" (8192); "auto" or -1 is the longest that fits memory;
    None is the model's own length."""
    max_num_seqs: int | None = None
    """Most sequences in one step; by default 512 on accelerators, 32 on a CPU."""
    max_num_batched_tokens: int | None = None
    """Most tokens in one step, by default 8192 (512 on a CPU); longer prompts are computed in chunks."""
    page_size: int = 16
    """Tokens per page of the KV cache; a power of two."""
    kv_cache_memory_bytes: int | None = None
    """Bytes of the KV cache, also as "2GiB", "500MB" or "2G"; overrides `device_memory_utilization`."""
    device_memory_utilization: float = 0.92
    """Share of the device's memory that this engine may use, weights included."""
    swap_space: float | None = None
    """GiB of the host's memory per device for keys and values of preempted requests; what finds no place there is
    computed again. None is a quarter of the KV cache, or of the host's memory if that is less; 0 is none."""
    seed: int = 0
    """Seeds the draws of requests that bring no seed, and dummy weights."""
    tensor_parallel_size: int = 1
    """Devices that share each weight matrix."""
    enable_prefix_caching: bool = True
    """Keep the pages of finished prompts for requests that start alike."""
    enable_chunked_prefill: bool = True
    """Always on: steps hold prompt chunks and decode tokens alike."""
    scheduling_policy: str = "fcfs"
    """"fcfs" serves requests in order of arrival, "priority" the lowest priority number first."""
    stream_interval: int = 1
    """Tokens per streamed output; a request may ask for more."""
    max_logprobs: int = 20
    """Most log-probabilities a request may ask for per position; -1 is no limit."""
    logprobs_mode: str = "raw_logprobs"
    """One of `LOGPROBS_MODES`: before or after sampling edits, normalised or not."""
    generation_config: str = "auto"
    """Where default sampling parameters come from: "auto" is the model, "jaxllm" (or "vllm") none, else a directory."""
    override_generation_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Values on top of those, by their name in generation_config.json."""
    hf_overrides: Mapping[str, Any] | Callable[[Any], Any] | None = None
    """Changes to the model's configuration: values by name, or a function from configuration to configuration."""
    chat_template: str | None = None
    """Template that `chat` uses instead of the tokenizer's: its text, or the path of a file."""
    enforce_eager: bool = False
    """Must be False: a step is always a compiled program."""
    disable_log_stats: bool = True
    """Keep no statistics and give outputs no metrics."""
    served_model_name: tuple[str, ...] = ()
    """Names under which a server offers the model; empty means `model`."""
    device: str = "auto"
    """"auto", "cpu", "gpu" or "tpu"."""
    compilation_cache_dir: str | None = None
    """Where compiled programs are kept for the next start; None is the user's cache directory."""
    background_compile: bool | None = None
    """Serve as soon as the largest programs are there, which run any step, and compile the others meanwhile: the first
    minute of a machine's first start is slower, and sooner there. None is True on accelerators, False on a CPU,
    whose cores the steps need."""

    def __post_init__(self) -> None:
        for name, value in (
            self._checked_model() | self._checked_switches() | self._checked_sizes() | self._checked_sampling()
        ).items():
            object.__setattr__(self, name, value)
        if None not in (self.max_num_seqs, self.max_num_batched_tokens):
            self._check_budget(self.max_num_seqs or 0, self.max_num_batched_tokens or 0)

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which the model is offered."""
        return self.served_model_name or (self.model,)

    def non_defaults(self) -> dict[str, Any]:
        """The fields that differ from their defaults, for logs; the hub token is left out."""
        plain = EngineConfig(model=self.model)
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.repr}
        return {name: value for name, value in values.items() if name == "model" or value != getattr(plain, name)}

    def _checked_model(self) -> dict[str, Any]:
        paths = (
            "tokenizer",
            "revision",
            "tokenizer_revision",
            "download_dir",
            "chat_template",
            "compilation_cache_dir",
        )
        if self.hf_token is not None and not isinstance(self.hf_token, (bool, str)):
            raise ValidationError("hf_token must be a bool or a string", parameter="hf_token")
        if not (self.hf_overrides is None or isinstance(self.hf_overrides, Mapping) or callable(self.hf_overrides)):
            raise fail("hf_overrides", "a mapping or a function", self.hf_overrides)
        names = (self.served_model_name,) if isinstance(self.served_model_name, str) else self.served_model_name or ()
        return {name: _check_optional_path(name, getattr(self, name)) for name in paths} | {
            "model": check_str("model", _path_as_text(self.model)),
            "tokenizer_mode": check_choice("tokenizer_mode", self.tokenizer_mode, ("auto", "hf", "slow")),
            "load_format": check_choice("load_format", self.load_format, LOAD_FORMATS),
            "dtype": _check_dtype(self.dtype),
            "kv_cache_dtype": check_choice("kv_cache_dtype", self.kv_cache_dtype, KV_CACHE_DTYPES),
            "device": check_choice("device", self.device, ("auto", "cpu", "gpu", "tpu")),
            "served_model_name": tuple(check_list("served_model_name", names, check_str, "a name or a list of names")),
        }

    def _checked_switches(self) -> dict[str, Any]:
        flags = ("skip_tokenizer_init", "trust_remote_code", "use_tqdm_on_load", "disable_log_stats", "enforce_eager")
        checked = {name: check_bool(name, getattr(self, name)) for name in flags}
        for name in ("enable_prefix_caching", "enable_chunked_prefill"):
            value = getattr(self, name)
            checked[name] = True if value is None else check_bool(name, value)
        if self.background_compile is not None:
            check_bool("background_compile", self.background_compile)
        if checked["enforce_eager"]:
            raise ValidationError(
                "enforce_eager must be False: jaxllm runs compiled programs only", parameter="enforce_eager"
            )
        if not checked["enable_chunked_prefill"]:
            raise ValidationError(
                "enable_chunked_prefill must be True: to compute prompts whole, set max_num_batched_tokens to at "
                "least max_model_len",
                parameter="enable_chunked_prefill",
            )
        return checked

    def _checked_sizes(self) -> dict[str, Any]:
        page_size = check_int("page_size", self.page_size, low=1)
        if page_size & (page_size - 1):
            raise fail("page_size", "a power of two", self.page_size)
        utilization = check_float("device_memory_utilization", self.device_memory_utilization, low=0.0, high=1.0)
        if utilization == 0.0:
            raise ValidationError(
                "device_memory_utilization must be above 0 and at most 1, got 0", parameter="device_memory_utilization"
            )
        swap_space = None if self.swap_space is None else check_float("swap_space", self.swap_space, low=0.0)
        counts = ("max_num_seqs", "max_num_batched_tokens", "kv_cache_memory_bytes")
        return {name: _check_optional_count(name, getattr(self, name)) for name in counts} | {
            "page_size": page_size,
            "device_memory_utilization": utilization,
            "swap_space": swap_space,
            "max_model_len": _check_max_model_len(self.max_model_len),
            "tensor_parallel_size": check_int("tensor_parallel_size", self.tensor_parallel_size, low=1),
            "stream_interval": check_int("stream_interval", self.stream_interval, low=1),
        }

    def _checked_sampling(self) -> dict[str, Any]:
        source = _path_as_text(self.generation_config)
        overrides = {} if self.override_generation_config is None else self.override_generation_config
        if not isinstance(overrides, Mapping) or not set(overrides) <= set(GENERATION_CONFIG_KEYS):
            raise fail(
                "override_generation_config", f"a mapping with keys of {', '.join(GENERATION_CONFIG_KEYS)}", overrides
            )
        return {
            "seed": 0 if self.seed is None else check_int("seed", self.seed, low=0, high=2**64 - 1),
            "scheduling_policy": check_choice("scheduling_policy", self.scheduling_policy, ("fcfs", "priority")),
            "max_logprobs": check_int("max_logprobs", self.max_logprobs, low=-1),
            "logprobs_mode": check_choice("logprobs_mode", self.logprobs_mode, LOGPROBS_MODES),
            "generation_config": "jaxllm" if source == "vllm" else check_str("generation_config", source),
            "override_generation_config": dict(overrides),
        }

    def _check_budget(self, num_seqs: int, num_tokens: int) -> None:
        if num_tokens < num_seqs:
            raise ValidationError(
                f"max_num_batched_tokens must be at least max_num_seqs ({num_seqs}), got {num_tokens}",
                parameter="max_num_batched_tokens",
            )


def parse_count(name: str, value: Any) -> int:
    """A count of at least 1, also as text: "8k" is 8000 and "8K" 8192, "2GB" is decimal and "2GiB" binary."""
    if not isinstance(value, str):
        return check_int(name, value, low=1)
    match = _NUMBER.fullmatch(value.strip())
    if match is None:
        raise fail(name, 'a count such as 8192, "8k", "8K" or "2GiB"', value)
    number, letter, unit = match.groups()
    scale = _scale(letter, unit)
    count = int(number) * scale if number.isdigit() else round(float(number) * scale)
    return check_int(name, count, low=1)


def _scale(letter: str, unit: str | None) -> int:
    if unit is not None:
        return _BINARY[letter.upper()] if unit == "iB" and letter else _DECIMAL[letter.lower()]
    return _BINARY[letter] if letter in _BINARY else _DECIMAL[letter]


def _check_optional_count(name: str, value: Any) -> int | None:
    return None if value is None else parse_count(name, value)


def _check_max_model_len(value: Any) -> int | Literal["auto"] | None:
    if value is None:
        return None
    if value == "auto" or (not isinstance(value, str) and check_int("max_model_len", value, low=-1) == -1):
        return "auto"
    return parse_count("max_model_len", value)


def _check_dtype(value: Any) -> str:
    """Takes the names, their aliases, and numpy's or jax's dtype objects."""
    name = value
    if not isinstance(value, str):
        dtype = value if isinstance(value, type) else getattr(value, "dtype", value)
        name = getattr(dtype, "__name__", None) if isinstance(dtype, type) else getattr(dtype, "name", None)
    name = DTYPE_ALIASES.get(name, name) if isinstance(name, str) else name
    if name not in DTYPES:
        expected = ", ".join(repr(choice) for choice in (*DTYPES, *DTYPE_ALIASES))
        raise ValidationError(f"dtype must be one of {expected}, got {describe(value)}", parameter="dtype")
    return str(name)


def _check_optional_path(name: str, value: Any) -> str | None:
    return None if value is None else check_str(name, _path_as_text(value))


def _path_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
