"""OPT (Zhang et al. 2022): learned positions, layer norms with biases, a plain two-matrix MLP."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxllm.models.attention import Attention
from jaxllm.models.causal_lm import CausalLM
from jaxllm.models.config import ModelConfig
from jaxllm.models.inputs import AttentionInputs, KVCache, StepInputs
from jaxllm.models.layers import Embedding, LayerNorm, Linear, activate
from jaxllm.models.stack import apply_layer

POSITION_OFFSET = 2
"""Row of the position table that belongs to position 0: OPT kept two rows for padding."""


class OPTLayer(nnx.Module):
    """Attention and MLP with the norm before (most sizes) or after (350m) each."""

    def __init__(self, config: ModelConfig, layer: int, mesh: Mesh) -> None:
        prefix = f"model.decoder.layers.{layer}"
        hidden, size = config.hidden_size, config.intermediate_size
        self.norm_before = config.norm_before
        self.activation = config.activation
        self.attention_norm = LayerNorm(
            hidden, config.norm_eps, f"{prefix}.self_attn_layer_norm", affine=config.norm_affine
        )
        self.attention = Attention(config, layer, f"{prefix}.self_attn", mesh=mesh, output="out_proj")
        self.mlp_norm = LayerNorm(hidden, config.norm_eps, f"{prefix}.final_layer_norm", affine=config.norm_affine)
        self.up = Linear(size, hidden, f"{prefix}.fc1", axes=("ffn", None), bias=config.mlp_bias)
        self.down = Linear(hidden, size, f"{prefix}.fc2", axes=(None, "ffn"), bias=config.mlp_bias)

    def __call__(
        self, x: Float[Array, "tokens hidden"], cache: KVCache, inputs: AttentionInputs
    ) -> tuple[Float[Array, "tokens hidden"], KVCache]:
        attended, cache = self.attention(self.attention_norm(x) if self.norm_before else x, None, cache, inputs)
        x = x + attended
        if not self.norm_before:
            x = self.attention_norm(x)
        up = self.up(self.mlp_norm(x) if self.norm_before else x)
        x = x + self.down(activate(self.activation, up))
        return (x if self.norm_before else self.mlp_norm(x)), cache


class OPT(CausalLM):
    """Token ids to hidden states, and hidden states to logits."""

    def __init__(self, config: ModelConfig, mesh: Mesh) -> None:
        width, hidden = config.word_embedding_size, config.hidden_size
        prefix = "model.decoder"
        self.embedding = Embedding(config.vocab_size, width, f"{prefix}.embed_tokens.weight")
        num_positions = config.max_position_embeddings + POSITION_OFFSET
        self.positions = Embedding(num_positions, hidden, f"{prefix}.embed_positions.weight")
        narrow = width != hidden
        self.project_in = Linear(hidden, width, f"{prefix}.project_in", axes=(None, None)) if narrow else None
        self.project_out = Linear(width, hidden, f"{prefix}.project_out", axes=(None, None)) if narrow else None
        self.layers = nnx.List([OPTLayer(config, layer, mesh) for layer in range(config.num_layers)])
        self.norm = (
            LayerNorm(hidden, config.norm_eps, f"{prefix}.final_layer_norm", affine=config.norm_affine)
            if config.norm_before
            else None
        )
        self.head = (
            None if config.tie_word_embeddings else Linear(config.vocab_size, width, "lm_head", axes=("vocab", None))
        )

    def __call__(
        self, inputs: StepInputs, caches: Sequence[KVCache]
    ) -> tuple[Float[Array, "tokens hidden"], list[KVCache]]:
        x = self.embedding(inputs.token_ids)
        if self.project_in is not None:
            x = self.project_in(x)
        x = x + self.positions(inputs.attention.positions + POSITION_OFFSET)
        new_caches = []
        for layer, cache in zip(self.layers, caches, strict=True):
            x, new_cache = apply_layer(layer, x, cache, inputs.attention)
            new_caches.append(new_cache)
        return x, new_caches

    def logits(self, x: Float[Array, "rows hidden"]) -> Float[Array, "rows vocab"]:
        """The last norm, the narrowing projection (350m) and the output head."""
        if self.norm is not None:
            x = self.norm(x)
        if self.project_out is not None:
            x = self.project_out(x)
        return self.embedding.attend(x) if self.head is None else self.head(x)
