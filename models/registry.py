"""Which port runs which architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxllm.errors import UnsupportedModelError
from jaxllm.models.config import ModelConfig
from jaxllm.models.gemma3 import Gemma3
from jaxllm.models.inputs import KVCache, StepInputs
from jaxllm.models.llama import Llama
from jaxllm.models.opt import OPT
from jaxllm.models.qwen3 import Qwen3


class CausalLM(Protocol):
    """What the step asks of a port."""

    def __call__(
        self, inputs: StepInputs, caches: Sequence[KVCache]
    ) -> tuple[Float[Array, "tokens hidden"], list[KVCache]]: ...

    def logits(self, x: Float[Array, "rows hidden"]) -> Float[Array, "rows vocab"]: ...


ARCHITECTURES: dict[str, type[nnx.Module]] = {
    "LlamaForCausalLM": Llama,
    "LLaMAForCausalLM": Llama,
    "OPTForCausalLM": OPT,
    "Qwen3ForCausalLM": Qwen3,
    "Gemma3ForCausalLM": Gemma3,
}


def build_model(config: ModelConfig, mesh: Mesh) -> nnx.Module:
    """The unfilled port of `config.architecture`. Raises UnsupportedModelError for one that is not known."""
    if config.architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedModelError(f"architecture {config.architecture!r} is not supported; known: {known}")
    return ARCHITECTURES[config.architecture](config, mesh)
