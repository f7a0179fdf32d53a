"""Which port runs which architecture."""

from __future__ import annotations

from jax.sharding import Mesh

from jaxllm.errors import UnsupportedModelError
from jaxllm.models.causal_lm import CausalLM
from jaxllm.models.config import ModelConfig
from jaxllm.models.gemma3 import Gemma3
from jaxllm.models.llama import Llama
from jaxllm.models.opt import OPT
from jaxllm.models.qwen3 import Qwen3

ARCHITECTURES: dict[str, type[CausalLM]] = {
    "LlamaForCausalLM": Llama,
    "LLaMAForCausalLM": Llama,
    "OPTForCausalLM": OPT,
    "Qwen3ForCausalLM": Qwen3,
    "Gemma3ForCausalLM": Gemma3,
}


def build_model(config: ModelConfig, mesh: Mesh) -> CausalLM:
    """The unfilled port of `config.architecture`. Raises UnsupportedModelError for one that is not known."""
    if config.architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedModelError(f"architecture {config.architecture!r} is not supported; known: {known}")
    return ARCHITECTURES[config.architecture](config, mesh)
