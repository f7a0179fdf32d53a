"""Llama (Touvron et al. 2023) and the models of its shape: Llama 2 and 3, SmolLM2, TinyLlama, Yi, Vicuna."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxllm.models.attention import Attention, Rope
from jaxllm.models.causal_lm import CausalLM
from jaxllm.models.config import ModelConfig
from jaxllm.models.inputs import AttentionInputs, KVCache, StepInputs
from jaxllm.models.layers import Embedding, GatedMLP, Linear, RMSNorm, rope_tables
from jaxllm.models.stack import apply_layer


class LlamaLayer(nnx.Module):
    """Pre-norm attention and gated MLP."""

    def __init__(self, config: ModelConfig, layer: int, mesh: Mesh, *, qk_norm_offset: float | None = None) -> None:
        prefix = f"model.layers.{layer}"
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps, f"{prefix}.input_layernorm.weight")
        self.attention = Attention(config, layer, f"{prefix}.self_attn", mesh=mesh, qk_norm_offset=qk_norm_offset)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps, f"{prefix}.post_attention_layernorm.weight")
        self.mlp = GatedMLP(config, f"{prefix}.mlp", num_shards=mesh.size)
        self.mesh = mesh

    def __call__(
        self,
        x: Float[Array, "tokens hidden"],
        delta: Float[Array, "tokens hidden"] | None,
        rope: Rope,
        cache: KVCache,
        inputs: AttentionInputs,
    ) -> tuple[Float[Array, "tokens hidden"], Float[Array, "tokens hidden"], KVCache]:
        """The layer's input is x + delta, so is its output: the sum is left to the norm that comes next."""
        if delta is None:
            normed = self.attention_norm(x)
        else:
            x, normed = self.attention_norm.of_sum(x, delta, self.mesh)
        attended, cache = self.attention(normed, rope, cache, inputs)
        x, normed = self.mlp_norm.of_sum(x, attended, self.mesh)
        return x, self.mlp(normed), cache


class Llama(CausalLM):
    """Token ids to hidden states, and hidden states to logits."""

    qk_norm_offset: float | None = None

    def __init__(self, config: ModelConfig, mesh: Mesh) -> None:
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.hidden_size, "model.embed_tokens.weight")
        self.layers = nnx.List(
            [LlamaLayer(config, layer, mesh, qk_norm_offset=self.qk_norm_offset) for layer in range(config.num_layers)]
        )
        self.norm = RMSNorm(config.hidden_size, config.norm_eps, "model.norm.weight")
        self.head = (
            None
            if config.tie_word_embeddings
            else Linear(config.vocab_size, config.hidden_size, "lm_head", axes=("vocab", None))
        )

    def __call__(
        self, inputs: StepInputs, caches: Sequence[KVCache]
    ) -> tuple[Float[Array, "tokens hidden"], list[KVCache]]:
        x = self.embedding(inputs.token_ids)
        rope = rope_tables(self.config.rope, self.config.head_dim, inputs.attention.positions)
        delta, new_caches = None, []
        for layer, cache in zip(self.layers, caches, strict=True):
            x, delta, new_cache = apply_layer(layer, x, delta, rope, cache, inputs.attention)
            new_caches.append(new_cache)
        return x if delta is None else x + delta, new_caches

    def logits(self, x: Float[Array, "rows hidden"]) -> Float[Array, "rows vocab"]:
        """The last norm and the output head."""
        x = self.norm(x)
        return self.embedding.attend(x) if self.head is None else self.head(x)
