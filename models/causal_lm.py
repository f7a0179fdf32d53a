"""What the step asks of a port."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxllm.models.config import ModelConfig
from jaxllm.models.inputs import KVCache, StepInputs


class CausalLM(nnx.Module):
    """A decoder-only model: token ids to hidden states, and hidden states to logits."""

    @abstractmethod
    def __init__(self, config: ModelConfig, mesh: Mesh) -> None:
        """Builds the unfilled model; `mesh` says over how many devices heads are split."""

    @abstractmethod
    def __call__(
        self, inputs: StepInputs, caches: Sequence[KVCache]
    ) -> tuple[Float[Array, "tokens hidden"], list[KVCache]]:
        """Hidden states before the last norm, and the caches with the step's entries."""

    @abstractmethod
    def logits(self, x: Float[Array, "rows hidden"]) -> Float[Array, "rows vocab"]:
        """The last norm and the output head."""
