"""Configurations of models a few numbers wide, and modules filled with given values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxllm.models.config import ModelConfig

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
}
"""A config.json with what a Llama must have and nothing else."""


def make_config(hf: Mapping[str, Any] = LLAMA, **fields: Any) -> ModelConfig:
    return ModelConfig.from_hf({**hf, **fields})


def make_mesh(num_devices: int = 1) -> Mesh:
    return Mesh(np.array(jax.devices("cpu")[:num_devices]), ("model",))


def fill[Module: nnx.Module](module: Module, **values: np.ndarray) -> Module:
    """The module with these parameters, by attribute."""
    for name, value in values.items():
        getattr(module, name).set_value(jnp.asarray(value))
    return module
