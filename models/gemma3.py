"""Gemma 3 text models (Gemma team 2025): local and global layers, four norms a layer, scaled embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxllm.models.attention import Attention, Rope
from jaxllm.models.causal_lm import CausalLM
from jaxllm.models.config import ModelConfig
from jaxllm.models.inputs import AttentionInputs, KVCache, StepInputs
from jaxllm.models.layers import Embedding, GatedMLP, Linear, RMSNorm, rope_tables
from jaxllm.models.stack import apply_layer

NORM_OFFSET = 1.0
"""Gemma's norm weights are stored as their distance from one."""


class Gemma3Layer(nnx.Module):
    """Attention and gated MLP, each between two norms."""

    def __init__(self, config: ModelConfig, layer: int, mesh: Mesh) -> None:
        prefix = f"model.layers.{layer}"

        def norm(name: str) -> RMSNorm:
            return RMSNorm(config.hidden_size, config.norm_eps, f"{prefix}.{name}.weight", offset=NORM_OFFSET)

        self.mesh = mesh
        self.is_local = config.layer_windows[layer] is not None
        self.before_attention = norm("input_layernorm")
        self.attention = Attention(config, layer, f"{prefix}.self_attn", mesh=mesh, qk_norm_offset=NORM_OFFSET)
        self.after_attention = norm("post_attention_layernorm")
        self.before_mlp = norm("pre_feedforward_layernorm")
        self.mlp = GatedMLP(config, f"{prefix}.mlp", num_shards=mesh.size)
        self.after_mlp = norm("post_feedforward_layernorm")

    def __call__(
        self,
        x: Float[Array, "tokens hidden"],
        delta: Float[Array, "tokens hidden"] | None,
        delta_weight: Float[Array, " hidden"] | None,
        rope: Rope,
        cache: KVCache,
        inputs: AttentionInputs,
    ) -> tuple[Float[Array, "tokens hidden"], Float[Array, "tokens hidden"], KVCache]:
        """The layer's input is x plus the norm, with `delta_weight`, of delta.

        Its output is the first of what it returns plus `after_mlp` of the second: that is left to the norm that comes
        next, so that one kernel does it all.
        """
        if delta is None:
            normed = self.before_attention(x)
        else:
            x, normed = self.before_attention.of_sum(x, delta, self.mesh, delta_weight=delta_weight)
        attended, cache = self.attention(normed, rope, cache, inputs)
        after_attention = self.after_attention.weight[...]
        x, normed = self.before_mlp.of_sum(x, attended, self.mesh, delta_weight=after_attention)
        return x, self.mlp(normed), cache


class Gemma3(CausalLM):
    """Token ids to hidden states, and hidden states to logits."""

    def __init__(self, config: ModelConfig, mesh: Mesh) -> None:
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.hidden_size, "model.embed_tokens.weight")
        self.layers = nnx.List([Gemma3Layer(config, layer, mesh) for layer in range(config.num_layers)])
        self.norm = RMSNorm(config.hidden_size, config.norm_eps, "model.norm.weight", offset=NORM_OFFSET)
        self.head = (
            None
            if config.tie_word_embeddings
            else Linear(config.vocab_size, config.hidden_size, "lm_head", axes=("vocab", None))
        )

    def __call__(
        self, inputs: StepInputs, caches: Sequence[KVCache]
    ) -> tuple[Float[Array, "tokens hidden"], list[KVCache]]:
        config, positions = self.config, inputs.attention.positions
        x = self.embedding(inputs.token_ids)
        # The factor is rounded to the run dtype first, as the released models were trained.
        x = x * jnp.asarray(config.embedding_scale, x.dtype)
        local_rope = rope_tables(config.local_rope, config.head_dim, positions)
        rope = rope_tables(config.rope, config.head_dim, positions)
        delta, delta_weight, new_caches = None, None, []
        for layer, cache in zip(self.layers, caches, strict=True):
            layer_rope = local_rope if layer.is_local else rope
            x, delta, new_cache = apply_layer(layer, x, delta, delta_weight, layer_rope, cache, inputs.attention)
            delta_weight = layer.after_mlp.weight[...]
            new_caches.append(new_cache)
        return x if delta is None else x + self.layers[-1].after_mlp(delta), new_caches

    def logits(self, x: Float[Array, "rows hidden"]) -> Float[Array, "rows vocab"]:
        """The last norm, the output head and the soft cap, if there is one."""
        x = self.norm(x)
        logits = self.embedding.attend(x) if self.head is None else self.head(x)
        if cap := self.config.logit_soft_cap:
            logits = (jnp.tanh(logits.astype(jnp.float32) / cap) * cap).astype(logits.dtype)
        return logits
