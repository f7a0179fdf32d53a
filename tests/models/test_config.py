import re
from typing import Any

import pytest

from jaxllm.errors import UnsupportedModelError
from jaxllm.models.config import ModelConfig, RopeConfig
from tests.models.helpers import LLAMA, make_config

OPT = {
    "architectures": ["OPTForCausalLM"],
    "vocab_size": 32,
    "hidden_size": 16,
    "ffn_dim": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "activation_function": "relu",
    "word_embed_proj_dim": 8,
    "do_layer_norm_before": False,
    "eos_token_id": 2,
}
GEMMA3 = LLAMA | {
    "architectures": ["Gemma3ForCausalLM"],
    "num_hidden_layers": 6,
    "head_dim": 8,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 64,
    "sliding_window": 512,
    "eos_token_id": [1, 106],
}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 4096,
}


def test_a_llama_with_nothing_but_its_sizes() -> None:
    assert make_config() == ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=4,
        max_position_embeddings=64,
        norm_eps=1e-6,
        activation="silu",
        tie_word_embeddings=False,
        attention_bias=False,
        attention_output_bias=False,
        mlp_bias=False,
        rope=RopeConfig(theta=10000.0),
        local_rope=RopeConfig(theta=10000.0),
        layer_windows=(None, None),
        attention_scale=0.5,
        attention_soft_cap=None,
        logit_soft_cap=None,
        embedding_scale=1.0,
        dtype="float32",
        word_embedding_size=16,
        norm_before=True,
        norm_affine=True,
        eos_token_ids=(),
    )


def test_opt_has_biases_tied_embeddings_and_its_own_names() -> None:
    config = make_config(OPT)
    assert config.intermediate_size == 40
    assert config.num_kv_heads == config.num_heads == 4
    assert config.activation == "relu"
    assert (config.attention_bias, config.attention_output_bias, config.mlp_bias) == (True, True, True)
    assert config.tie_word_embeddings
    assert (config.word_embedding_size, config.norm_before, config.norm_eps) == (8, False, 1e-5)
    assert config.eos_token_ids == (2,)


def test_opt_may_go_without_biases() -> None:
    config = make_config(OPT, enable_bias=False)
    assert (config.attention_bias, config.attention_output_bias, config.mlp_bias) == (False, False, False)


def test_qwen3_heads_are_wider_than_the_hidden_size_tells() -> None:
    config = make_config(architectures=["Qwen3ForCausalLM"], head_dim=16, sliding_window=8, use_sliding_window=False)
    assert (config.head_dim, config.attention_scale) == (16, 0.25)
    assert config.layer_windows == (None, None)


def test_gemma3_scales_embeddings_and_queries() -> None:
    config = make_config(GEMMA3)
    assert (config.embedding_scale, config.attention_scale) == (4.0, 0.125)
    assert config.activation == "gelu_pytorch_tanh"
    assert config.tie_word_embeddings
    assert config.eos_token_ids == (1, 106)


@pytest.mark.parametrize(
    "fields",
    [
        {"layer_types": [*["sliding_attention"] * 5, "full_attention"]},
        {"sliding_window_pattern": 6},
        {"_sliding_window_pattern": 6},
    ],
)
def test_gemma3_has_windows_in_all_but_every_sixth_layer(fields: dict[str, Any]) -> None:
    assert make_config(GEMMA3, **fields).layer_windows == (512, 512, 512, 512, 512, None)


def test_a_window_without_a_pattern_is_that_of_all_layers() -> None:
    assert make_config(sliding_window=8).layer_windows == (8, 8)


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_theta": 1e6, "rope_local_base_freq": 5e3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
            }
        },
    ],
)
def test_gemma3_layers_with_a_window_have_a_rope_of_their_own(fields: dict[str, Any]) -> None:
    config = make_config(GEMMA3, **fields)
    assert config.rope == RopeConfig(theta=1e6, scaling="linear", factor=8.0)
    assert config.local_rope == RopeConfig(theta=5e3)


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_theta": 5e5, "rope_scaling": LLAMA3_SCALING},
        {"rope_parameters": LLAMA3_SCALING | {"rope_theta": 5e5}},
    ],
)
def test_llama3_rope_is_read_from_old_and_new_fields(fields: dict[str, Any]) -> None:
    config = make_config(**fields)
    assert config.rope == config.local_rope
    assert config.rope == RopeConfig(
        theta=5e5,
        scaling="llama3",
        factor=32.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=4096,
    )


def test_the_older_name_of_the_kind_of_scaling() -> None:
    assert make_config(rope_scaling={"type": "linear", "factor": 2.0}).rope.scaling == "linear"


@pytest.mark.parametrize("fields", [{"dtype": "bfloat16"}, {"torch_dtype": "torch.bfloat16"}])
def test_dtype_under_both_names(fields: dict[str, str]) -> None:
    assert make_config(**fields).dtype == "bfloat16"


def test_the_text_part_of_a_model_of_more() -> None:
    assert ModelConfig.from_hf({"architectures": ["LlamaForCausalLM"], "text_config": LLAMA}) == make_config()


def test_new_gelu_is_the_one_with_tanh() -> None:
    assert make_config(hidden_act="gelu_new").activation == "gelu_pytorch_tanh"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "mish"}, "activation 'mish' is not supported; known: ['gelu', "),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            "rope scaling 'yarn' is not supported; known: default, linear, llama3",
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 4.0}},
            "the configuration of LlamaForCausalLM lacks the field 'low_freq_factor'",
        ),
        (
            {"quantization_config": {"quant_method": "gptq"}},
            "quantised checkpoints are not supported yet (quant_method is 'gptq')",
        ),
        (
            {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": {}}}},
            "quantised checkpoints are not supported yet (quant_method is 'compressed-tensors')",
        ),
        (
            {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}},
            "quantised checkpoints are not supported yet (quant_method is 'modelopt')",
        ),
    ],
)
def test_features_without_an_implementation_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=re.escape(message)):
        make_config(**fields)


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float"}},
        {"quant_method": "modelopt", "quant_algo": None, "kv_cache_quant_algo": "FP8"},
    ],
)
def test_a_checkpoint_may_want_a_cache_of_8_bits(quantization: dict[str, Any]) -> None:
    assert make_config(quantization_config=quantization).saved_cache_dtype == "float8_e4m3fn"
    assert make_config().saved_cache_dtype is None


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "num_hidden_layers", "rms_norm_eps"])
def test_a_missing_field_is_named(name: str) -> None:
    fields = {key: value for key, value in LLAMA.items() if key != name}
    with pytest.raises(UnsupportedModelError, match=f"the configuration of LlamaForCausalLM lacks the field '{name}'"):
        ModelConfig.from_hf(fields)
