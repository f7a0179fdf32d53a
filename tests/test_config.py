"""Engine configuration: what is accepted, what it becomes, and what each refusal says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from jaxllm.config import EngineConfig, parse_count
from jaxllm.errors import ValidationError


def make_config(**changes: Any) -> EngineConfig:
    return EngineConfig(**({"model": "m"} | changes))


@pytest.mark.parametrize(
    ("given", "became"),
    [
        ({"model": Path("dir/m.gguf")}, {"model": "dir/m.gguf"}),
        ({"dtype": "half"}, {"dtype": "float16"}),
        ({"dtype": "float"}, {"dtype": "float32"}),
        ({"dtype": np.float32}, {"dtype": "float32"}),
        ({"dtype": np.dtype("float16")}, {"dtype": "float16"}),
        ({"dtype": ml_dtypes.bfloat16}, {"dtype": "bfloat16"}),
        ({"max_model_len": "8k"}, {"max_model_len": 8000}),
        ({"max_model_len": "8K"}, {"max_model_len": 8192}),
        ({"max_model_len": -1}, {"max_model_len": "auto"}),
        ({"max_model_len": "auto"}, {"max_model_len": "auto"}),
        ({"kv_cache_memory_bytes": "2GiB"}, {"kv_cache_memory_bytes": 2**31}),
        ({"enable_prefix_caching": None}, {"enable_prefix_caching": True}),
        ({"enable_prefix_caching": False}, {"enable_prefix_caching": False}),
        ({"seed": None}, {"seed": 0}),
        ({"generation_config": "vllm"}, {"generation_config": "jaxllm"}),
        ({"override_generation_config": None}, {"override_generation_config": {}}),
        ({"served_model_name": "a"}, {"served_model_name": ("a",), "names": ("a",)}),
        ({"served_model_name": None}, {"served_model_name": (), "names": ("m",)}),
        ({"served_model_name": ["a", "b"]}, {"names": ("a", "b")}),
    ],
)
def test_normalises(given, became):
    config = make_config(**given)
    assert {name: getattr(config, name) for name in became} == became


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("12", 12),
        ("1.5k", 1500),
        ("2M", 2 * 2**20),
        ("2m", 2_000_000),
        ("500MB", 500_000_000),
        ("1.5GiB", 3 * 2**29),
        ("7B", 7),
        (" 1T ", 2**40),
    ],
)
def test_parses_counts(text, count):
    assert parse_count("size", text) == count


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": ""}, "model must be a string that is not empty, got ''"),
        ({"model": 5}, "model must be a string that is not empty, got 5"),
        ({"tokenizer": 5}, "tokenizer must be a string that is not empty, got 5"),
        ({"tokenizer_mode": "mistral"}, "tokenizer_mode must be one of 'auto', 'hf', 'slow', got 'mistral'"),
        ({"skip_tokenizer_init": 1}, "skip_tokenizer_init must be a bool, got 1"),
        ({"hf_token": 5}, "hf_token must be a bool or a string"),
        ({"load_format": "npz"}, "load_format must be one of 'auto', 'safetensors', .* got 'npz'"),
        ({"dtype": "int8"}, "dtype must be one of 'auto', 'float32', .* got 'int8'"),
        ({"dtype": 3}, r"dtype must be one of .* got 3 \(int\)"),
        ({"max_model_len": 0}, "max_model_len must be an integer of at least 1, got 0"),
        ({"max_model_len": "8Q"}, "max_model_len must be a count such as .* got '8Q'"),
        ({"max_model_len": 8.0}, "max_model_len must be an integer"),
        ({"max_num_seqs": 0}, "max_num_seqs must be an integer of at least 1, got 0"),
        (
            {"max_num_seqs": 64, "max_num_batched_tokens": 32},
            r"max_num_batched_tokens must be at least max_num_seqs \(64\), got 32",
        ),
        ({"page_size": 24}, "page_size must be a power of two, got 24"),
        ({"kv_cache_memory_bytes": "-1"}, "kv_cache_memory_bytes must be a count such as .* got '-1'"),
        ({"device_memory_utilization": 0}, "device_memory_utilization must be above 0 and at most 1, got 0"),
        ({"device_memory_utilization": 1.1}, "device_memory_utilization must be a finite number from 0.0 to 1.0"),
        ({"kv_cache_dtype": "int8"}, "kv_cache_dtype must be one of 'auto', .* 'fp8_e5m2', got 'int8'"),
        ({"seed": -1}, "seed must be an integer from 0"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size must be an integer of at least 1, got 0"),
        ({"enable_chunked_prefill": False}, "enable_chunked_prefill must be True: .* set max_num_batched_tokens"),
        ({"enforce_eager": True}, "enforce_eager must be False: jaxllm runs compiled programs only"),
        ({"scheduling_policy": "lifo"}, "scheduling_policy must be one of 'fcfs', 'priority', got 'lifo'"),
        ({"stream_interval": 0}, "stream_interval must be an integer of at least 1, got 0"),
        ({"max_logprobs": -2}, "max_logprobs must be an integer of at least -1, got -2"),
        ({"logprobs_mode": "none"}, "logprobs_mode must be one of 'raw_logprobs', .* got 'none'"),
        ({"generation_config": ""}, "generation_config must be a string that is not empty"),
        ({"override_generation_config": {"temp": 1}}, "override_generation_config must be a mapping with keys of temp"),
        ({"hf_overrides": 5}, "hf_overrides must be a mapping or a function, got 5"),
        ({"device": "cuda"}, "device must be one of 'auto', 'cpu', 'gpu', 'tpu', got 'cuda'"),
        ({"served_model_name": [""]}, r"served_model_name\[0\] must be a string that is not empty"),
        ({"disable_log_stats": "no"}, "disable_log_stats must be a bool"),
    ],
)
def test_refuses(given, message):
    with pytest.raises(ValidationError, match=message):
        make_config(**given)


def test_token_is_kept_out_of_logs():
    assert "secret" not in repr(make_config(hf_token="secret"))


def test_non_defaults_leave_the_token_out():
    config = make_config(hf_token="secret", seed=3, dtype="auto")
    assert config.non_defaults() == {"model": "m", "seed": 3}


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError, match="seed"):
        make_config().seed = 1  # type: ignore[misc]
