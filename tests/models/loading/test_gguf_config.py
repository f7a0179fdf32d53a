from typing import Any

import numpy as np
import pytest

from jaxllm.errors import CheckpointError, UnsupportedModelError
from jaxllm.models.loading.gguf_config import gguf_generation_config, gguf_hf_config
from jaxllm.models.loading.gguf_file import GgufFile
from tests.models.loading.helpers import write_gguf

EMBEDDING = {"token_embd.weight": np.zeros((100, 64), np.float32)}


def config_of(tmp_path, tensors=None, **options):
    return gguf_hf_config(GgufFile(write_gguf(tmp_path / "a.gguf", EMBEDDING | (tensors or {}), **options)))


def llama3_divisors(theta, factor):
    frequencies = theta ** (-np.arange(0, 64, 2) / 64)
    wavelengths = 2 * np.pi / frequencies
    smooth = (8192 / wavelengths - 1) / 3
    blended = 1 / ((1 - smooth) / factor + smooth)
    divisors = np.where(wavelengths < 8192 / 4, 1, np.where(wavelengths > 8192, factor, blended))
    return divisors.astype(np.float32)


def test_llama(tmp_path):
    options = {"llama__rope__freq_base": 1e5, "llama__rope__dimension_count": 16, "tokenizer__ggml__bos_token_id": 1}
    assert config_of(tmp_path, **options, tokenizer__ggml__eos_token_id=2) == {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": True,
        "rope_theta": 100000.0,
        "rope_scaling": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
    }


def test_untied_embeddings_and_biases_show_in_the_tensors(tmp_path):
    config = config_of(tmp_path, {"output.weight": np.zeros((100, 64)), "blk.0.attn_q.bias": np.zeros(64)})
    assert (config["tie_word_embeddings"], config["attention_bias"], config["mlp_bias"]) == (False, True, False)


def test_key_value_heads_default_to_heads(tmp_path):
    assert config_of(tmp_path, llama__attention__head_count_kv=None)["num_key_value_heads"] == 4


def test_head_dim_is_the_key_length(tmp_path):
    config = config_of(tmp_path, architecture="qwen3", qwen3__attention__key_length=32)
    assert (config["architectures"], config["model_type"]) == (["Qwen3ForCausalLM"], "qwen3")
    assert config["head_dim"] == 32
    assert "attention_bias" not in config


def test_qwen2(tmp_path):
    assert config_of(tmp_path, architecture="qwen2")["architectures"] == ["Qwen2ForCausalLM"]


def test_gemma3(tmp_path):
    options = {"gemma3__attention__key_length": 16, "gemma3__attention__sliding_window": 32, "gemma3__block_count": 7}
    config = config_of(tmp_path, architecture="gemma3", **options)
    assert config["architectures"] == ["Gemma3ForCausalLM"]
    assert config["model_type"] == "gemma3_text"
    assert config["layer_types"] == ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"]
    assert (config["sliding_window"], config["rope_local_base_freq"]) == (32, 10000.0)
    assert (config["query_pre_attn_scalar"], config["hidden_activation"]) == (16, "gelu_pytorch_tanh")


def test_gemma3_27b_scales_queries_by_the_hidden_size_per_head(tmp_path):
    options = {"gemma3__attention__key_length": 8, "gemma3__attention__sliding_window": 32, "gemma3__block_count": 62}
    assert config_of(tmp_path, architecture="gemma3", **options)["query_pre_attn_scalar"] == 16


@pytest.mark.parametrize("pattern", [2, [True, False]])
def test_gemma3_window_pattern(tmp_path, pattern):
    options = {"gemma3__attention__sliding_window": 32, "gemma3__attention__sliding_window_pattern": pattern}
    assert config_of(tmp_path, architecture="gemma3", **options)["layer_types"] == [
        "sliding_attention",
        "full_attention",
    ]


def test_llama3_rope_scaling_is_found_from_the_divisors(tmp_path):
    tensors = {"rope_freqs.weight": llama3_divisors(500000.0, 32.0)}
    options = {"llama__rope__freq_base": 500000.0}
    assert config_of(tmp_path, tensors, **options)["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_other_divisors_are_refused(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"the divisors in rope_freqs\.weight are not those of Llama 3"):
        config_of(tmp_path, {"rope_freqs.weight": np.linspace(1, 8, 32, dtype=np.float32)})


def test_linear_and_yarn_scaling(tmp_path):
    scaling = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 8.0}
    assert config_of(tmp_path, **scaling)["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    scaling |= {"llama__rope__scaling__type": "yarn", "llama__rope__scaling__original_context_length": 32}
    assert config_of(tmp_path, **scaling)["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 32,
    }


def test_unknown_scaling_is_refused(tmp_path):
    scaling = {"llama__rope__scaling__type": "spiral", "llama__rope__scaling__factor": 8.0}
    with pytest.raises(UnsupportedModelError, match="scales rope by 'spiral'; known are none, linear and yarn"):
        config_of(tmp_path, **scaling)


def test_an_unknown_architecture_is_refused(tmp_path):
    with pytest.raises(UnsupportedModelError, match="the GGUF architecture 'mamba'; supported are llama, qwen2"):
        config_of(tmp_path, architecture="mamba")


def test_mixtures_of_experts_are_refused(tmp_path):
    with pytest.raises(UnsupportedModelError, match="is a mixture of experts"):
        config_of(tmp_path, llama__expert_count=8)


def test_parts_of_a_split_file_are_refused(tmp_path):
    with pytest.raises(UnsupportedModelError, match="one of 3 parts of a split GGUF file"):
        config_of(tmp_path, split__count=3)


def test_a_missing_key_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"a\.gguf lacks the metadata llama\.context_length"):
        config_of(tmp_path, llama__context_length=None)


@pytest.mark.parametrize("value", [0, 0.5, "many"])
def test_a_size_must_be_a_positive_count(tmp_path, value):
    with pytest.raises(CheckpointError, match=rf"llama\.attention\.head_count is {value!r}, expected a positive count"):
        config_of(tmp_path, llama__attention__head_count=value)


def test_a_value_per_layer_must_be_the_same_for_all(tmp_path):
    assert config_of(tmp_path, llama__feed_forward_length=[96, 96])["intermediate_size"] == 96
    with pytest.raises(UnsupportedModelError, match=r"llama\.feed_forward_length differs between layers"):
        config_of(tmp_path, llama__feed_forward_length=[96, 128])


def test_a_vocabulary_without_weights_is_refused(tmp_path):
    file = GgufFile(write_gguf(tmp_path / "a.gguf", {}))
    with pytest.raises(CheckpointError, match="does it hold a vocabulary alone"):
        gguf_hf_config(file)


def test_generation_config_ends_at_end_of_turn_too(tmp_path):
    ids: dict[str, Any] = {"tokenizer__ggml__eos_token_id": 5, "tokenizer__ggml__bos_token_id": 4}
    assert gguf_generation_config(GgufFile(write_gguf(tmp_path / "a.gguf", {}, **ids))) == {
        "bos_token_id": 4,
        "eos_token_id": 5,
    }
    ids["tokenizer__ggml__eot_token_id"] = 7
    assert gguf_generation_config(GgufFile(write_gguf(tmp_path / "b.gguf", {}, **ids)))["eos_token_id"] == [5, 7]
