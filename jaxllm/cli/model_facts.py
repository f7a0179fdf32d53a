"""What is known of a model before its weights are loaded: sizes, and the memory that it will take."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxllm.config import EngineConfig
from jaxllm.models.attention import HeadLayout
from jaxllm.models.config import ModelConfig
from jaxllm.models.loading.checkpoint import read_hf_config
from jaxllm.models.loading.source import ModelSource, resolve_model
from jaxllm.models.parameters import ParameterInfo, describe
from jaxllm.models.registry import build_model
from jaxllm.runner.defaults import choose_cache_dtype, choose_dtype, choose_limits
from jaxllm.runner.memory import kv_bytes_per_token, wanted_model_len
from jaxllm.runner.program_memory import estimated_bytes
from jaxllm.runner.sharding import make_mesh, make_planning_mesh, shard

PARTS = {
    "embedding": ("embedding", "positions", "project_in"),
    "attention": ("attention",),
    "mlp": ("mlp", "up", "down"),
    "output": ("head", "project_out"),
}
"""Parts by the first word of a parameter's name, or by the one behind a layer's number; the rest are norms."""
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin", "*.gguf")
ITEMSIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Sizes of a model under the engine's configuration; bytes are per device."""

    model: str
    architecture: str
    kind: str
    """hf, gguf or orbax."""
    saved_dtype: str
    dtype: str
    """What the weights and the cache will be in."""
    num_parameters: dict[str, int]
    """By part; tied matrices count once."""
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    """Positions that the model was made for."""
    max_model_len: int
    """Longest sequence that is asked for."""
    tensor_parallel_size: int
    stored_bytes: int
    """Weight files on this disk; 0 if there are none."""
    weight_bytes: int
    kv_bytes_per_token: int
    page_size: int
    workspace_bytes: int
    """What a step of the largest size makes beside weights and cache."""

    @property
    def total_parameters(self) -> int:
        """Of the whole model."""
        return sum(self.num_parameters.values())

    @property
    def kv_bytes_per_sequence(self) -> int:
        """Pages of one sequence of `max_model_len`."""
        return -(-self.max_model_len // self.page_size) * self.page_size * self.kv_bytes_per_token

    @property
    def min_bytes(self) -> int:
        """Least memory that serves one sequence of `max_model_len`; one page is always reserved."""
        return self.weight_bytes + self.workspace_bytes + self.kv_bytes_per_sequence + self._page_bytes

    def kv_tokens_in(self, num_bytes: int) -> int:
        """Tokens of the cache that fit beside the weights into so much memory of each device."""
        left = num_bytes - self.weight_bytes - self.workspace_bytes
        return max(0, left // self._page_bytes - 1) * self.page_size

    def sequences_in(self, num_bytes: int) -> int:
        """Sequences of `max_model_len` that fit at once."""
        return self.kv_tokens_in(num_bytes) * self.kv_bytes_per_token // self.kv_bytes_per_sequence

    @property
    def _page_bytes(self) -> int:
        return self.page_size * self.kv_bytes_per_token


def read_model_facts(config: EngineConfig) -> ModelFacts:
    """Reads a model's configuration, from a hub if need be, but none of its weights."""
    source = resolve_model(
        config.model,
        revision=config.revision,
        download_dir=config.download_dir,
        hf_token=config.hf_token,
        wants_weights=False,
    )
    overrides: Any = config.hf_overrides or {}
    model = ModelConfig.from_hf({**read_hf_config(source), **overrides})
    platform = make_mesh("auto", 1).devices.flat[0].platform if config.device == "auto" else config.device
    dtype = choose_dtype(config.dtype, model.dtype, platform)
    cache_dtype = choose_cache_dtype(config.kv_cache_dtype, dtype, model.saved_cache_dtype)
    num_devices = config.tensor_parallel_size
    layout = HeadLayout.of(model, num_devices)
    return ModelFacts(
        model=config.model,
        architecture=model.architecture,
        kind=source.kind,
        saved_dtype=model.dtype,
        dtype=dtype,
        num_parameters=_count_by_part(_parameters(model, 1)),
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        vocab_size=model.vocab_size,
        context_length=model.max_position_embeddings,
        max_model_len=wanted_model_len(config, model.max_position_embeddings),
        tensor_parallel_size=num_devices,
        stored_bytes=_stored_bytes(source),
        weight_bytes=_num_elements_per_device(model, num_devices) * ITEMSIZES[dtype],
        kv_bytes_per_token=kv_bytes_per_token(model, layout, ITEMSIZES[cache_dtype]) // num_devices,
        page_size=config.page_size,
        workspace_bytes=estimated_bytes(model, choose_limits(config, platform)),
    )


def _parameters(model: ModelConfig, num_devices: int) -> Sequence[ParameterInfo]:
    _, infos, _ = describe(build_model(model, make_planning_mesh(num_devices)))
    return infos


def _count_by_part(infos: Sequence[ParameterInfo]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for info in infos:
        counts[_part(info.name)] += math.prod(info.shape)
    return {part: counts[part] for part in (*PARTS, "norms") if counts[part]}


def _part(name: str) -> str:
    words = name.split(".")
    word = words[2] if words[0] == "layers" else words[0]
    return next((part for part, known in PARTS.items() if word in known), "norms")


def _num_elements_per_device(model: ModelConfig, num_devices: int) -> int:
    mesh = make_planning_mesh(num_devices)
    infos = _parameters(model, num_devices)
    return sum(math.prod(shard(mesh, info.shape, info.axes).shard_shape(info.shape)) for info in infos)


def _stored_bytes(source: ModelSource) -> int:
    if source.path.is_file():
        return source.path.stat().st_size
    files: set[Path] = {file for pattern in WEIGHT_FILES for file in source.path.glob(pattern)}
    return sum(file.stat().st_size for file in files)
