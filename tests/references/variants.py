"""The tiny random models: one entry per variant of the four families. Imports neither torch nor transformers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Storage = Literal["safetensors", "safetensors-sharded", "bin", "bin-bare-prefix"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A tiny model: its config.json and how its weights are stored."""

    name: str
    architecture: str
    """transformers' class."""
    config: dict[str, Any]
    """config.json without `architectures`, `model_type` and `dtype`, written as it stands: some variants use the
    keys of transformers 5 (`rope_parameters`), some those of the older files on the hub (`rope_scaling`)."""
    weight_dtype: str = "float32"
    storage: Storage = "safetensors"
    scales: dict[str, float] = field(default_factory=dict)
    """Standard deviation of the weights whose name holds the key, where the default makes a model that repeats one
    token: a final norm with signs of its own keeps a tied model from predicting its input."""


LLAMA: dict[str, Any] = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OPT: dict[str, Any] = {
    "activation_function": "relu",
    "max_position_embeddings": 96,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "layerdrop": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
QWEN3: dict[str, Any] = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 256,
    "use_sliding_window": False,
    "sliding_window": None,
    "bos_token_id": 250,
    "eos_token_id": 251,
}
GEMMA3: dict[str, Any] = {
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 256,
    "attention_bias": False,
    "bos_token_id": 2,
    "eos_token_id": [1, 106],
    "pad_token_id": 0,
}

VARIANTS = (
    Variant(
        name="llama_gqa",
        architecture="LlamaForCausalLM",
        config={
            **LLAMA,
            "vocab_size": 259,
            "hidden_size": 48,
            "intermediate_size": 67,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    Variant(
        name="llama_mha_tied",
        architecture="LlamaForCausalLM",
        config={
            **LLAMA,
            "vocab_size": 257,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "tie_word_embeddings": True,
            "rope_theta": 100000.0,
        },
    ),
    Variant(
        name="llama_biases",
        architecture="LlamaForCausalLM",
        config={
            **LLAMA,
            "vocab_size": 281,
            "hidden_size": 40,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 5,
            "num_key_value_heads": 1,
            "tie_word_embeddings": False,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_theta": 10000.0,
        },
    ),
    Variant(
        name="llama_rope_llama3",
        architecture="LlamaForCausalLM",
        config={
            **LLAMA,
            "vocab_size": 300,
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "tie_word_embeddings": False,
            "rope_theta": 10000.0,
            # Wavelengths 6.3, 20, 63 ... fall below 32 / 4, between, and above 32 / 1: all three branches.
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    Variant(
        name="llama_rope_linear",
        architecture="LlamaForCausalLM",
        config={
            **LLAMA,
            "vocab_size": 263,
            "hidden_size": 48,
            "intermediate_size": 72,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "tie_word_embeddings": False,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "linear", "factor": 4.0},
        },
    ),
    Variant(
        name="llama_head_dim",
        architecture="LlamaForCausalLM",
        weight_dtype="bfloat16",
        config={
            **LLAMA,
            "vocab_size": 311,
            "hidden_size": 32,
            "intermediate_size": 341,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 20,
            "tie_word_embeddings": False,
            "rope_theta": 10000.0,
        },
    ),
    Variant(
        name="opt_pre_norm",
        architecture="OPTForCausalLM",
        scales={"embed_positions": 1.0, "bias": 0.15, "norm.weight": 1.0, "q_proj.weight": 0.5},
        config={
            **OPT,
            "vocab_size": 272,
            "hidden_size": 48,
            "word_embed_proj_dim": 48,
            "ffn_dim": 100,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "do_layer_norm_before": True,
            "tie_word_embeddings": True,
        },
    ),
    Variant(
        name="opt_pre_norm_bin",
        architecture="OPTForCausalLM",
        weight_dtype="float16",
        storage="bin",
        scales={"embed_positions": 1.0, "bias": 0.15, "norm.weight": 1.0, "q_proj.weight": 0.5},
        config={
            **OPT,
            "vocab_size": 257,
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "ffn_dim": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "do_layer_norm_before": True,
            "_remove_final_layer_norm": False,
        },
    ),
    Variant(
        name="opt_post_norm_projection",
        architecture="OPTForCausalLM",
        storage="bin-bare-prefix",
        scales={
            "embed_tokens": 0.4,
            "embed_positions": 1.5,
            "bias": 0.1,
            "norm.weight": 1.0,
            "q_proj.weight": 0.4,
            "project_in": 0.8,
            "project_out": 0.5,
            "fc2": 0.08,
        },
        config={
            **OPT,
            "vocab_size": 289,
            "hidden_size": 48,
            "word_embed_proj_dim": 24,
            "ffn_dim": 90,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "do_layer_norm_before": False,
            "_remove_final_layer_norm": False,
        },
    ),
    Variant(
        name="opt_untied_no_bias",
        architecture="OPTForCausalLM",
        scales={"embed_positions": 0.8, "q_proj.weight": 0.5},
        config={
            **OPT,
            "vocab_size": 260,
            "hidden_size": 40,
            "word_embed_proj_dim": 40,
            "ffn_dim": 77,
            "num_hidden_layers": 3,
            "num_attention_heads": 5,
            "activation_function": "gelu",
            "do_layer_norm_before": True,
            "enable_bias": False,
            "layer_norm_elementwise_affine": False,
            "tie_word_embeddings": False,
        },
    ),
    Variant(
        name="qwen3_untied",
        architecture="Qwen3ForCausalLM",
        config={
            **QWEN3,
            "vocab_size": 271,
            "hidden_size": 48,
            "intermediate_size": 100,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "attention_bias": False,
            "tie_word_embeddings": False,
            "rope_theta": 1000000,
        },
    ),
    Variant(
        name="qwen3_tied_sharded",
        architecture="Qwen3ForCausalLM",
        storage="safetensors-sharded",
        config={
            **QWEN3,
            "vocab_size": 300,
            "hidden_size": 40,
            "intermediate_size": 61,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 12,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
    ),
    Variant(
        name="qwen3_attention_bias",
        architecture="Qwen3ForCausalLM",
        config={
            **QWEN3,
            "rms_norm_eps": 1e-2,
            "vocab_size": 259,
            "hidden_size": 36,
            "intermediate_size": 72,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 18,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "rope_theta": 10000,
        },
    ),
    Variant(
        name="gemma3_two_bases",
        architecture="Gemma3ForCausalLM",
        scales={"embed_tokens": 0.15, "model.norm.weight": 4.0, "norm.weight": 1.0},
        config={
            **GEMMA3,
            "vocab_size": 320,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 7,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "sliding_window": 9,
            "layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
            "tie_word_embeddings": True,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
            },
        },
    ),
    Variant(
        name="gemma3_linear_global",
        architecture="Gemma3ForCausalLM",
        scales={"embed_tokens": 0.15, "model.norm.weight": 4.0, "norm.weight": 1.0},
        config={
            **GEMMA3,
            "rms_norm_eps": 1e-3,
            "vocab_size": 277,
            "hidden_size": 36,
            "intermediate_size": 56,
            "num_hidden_layers": 7,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 20,
            "query_pre_attn_scalar": 11,
            "sliding_window": 16,
            "sliding_window_pattern": 6,
            "rope_theta": 10000.0,
            "rope_local_base_freq": 500.0,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        },
    ),
)
