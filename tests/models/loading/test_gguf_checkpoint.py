import numpy as np
import pytest

from jaxllm.errors import CheckpointError
from jaxllm.models.loading.gguf_checkpoint import GgufCheckpoint
from jaxllm.models.loading.gguf_file import GgufFile
from tests.models.loading.helpers import write_gguf

EMBEDDING = np.arange(640, dtype=np.float32).reshape(10, 64)
LLAMA_LAYER = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"]


def open_gguf(tmp_path, tensors, **options):
    return GgufCheckpoint(
        GgufFile(write_gguf(tmp_path / "a.gguf", {"token_embd.weight": EMBEDDING} | tensors, **options))
    )


def permute_as_gguf(rows, num_heads):
    """What the converter to GGUF does with q and k."""
    head_dim = rows.shape[0] // num_heads
    order = [head * head_dim + half * head_dim // 2 + pair
             for head in range(num_heads) for pair in range(head_dim // 2) for half in range(2)]  # fmt: skip
    return rows[order]


def test_llama_names(tmp_path):
    layer = {f"blk.1.{name}.weight": np.zeros((64, 2), np.float32) for name in LLAMA_LAYER}
    norm, frequencies = {"output_norm.weight": np.zeros(64)}, {"rope_freqs.weight": np.ones(8)}
    tensors = {**layer, **norm, "output.weight": EMBEDDING, **frequencies}
    assert open_gguf(tmp_path, tensors).names() == [
        "model.embed_tokens.weight",
        "model.layers.1.input_layernorm.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.1.self_attn.v_proj.weight",
        "model.layers.1.self_attn.o_proj.weight",
        "model.layers.1.post_attention_layernorm.weight",
        "model.layers.1.mlp.gate_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ]


def test_gemma3_has_four_norms_and_two_more_for_heads(tmp_path):
    names = ["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm"]
    tensors = {f"blk.0.{name}.weight": np.full(4, 1.25, np.float32) for name in names}
    options = {"architecture": "gemma3", "gemma3__attention__sliding_window": 4}
    checkpoint = open_gguf(tmp_path, tensors, **options)
    assert checkpoint.names()[1:] == [
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.pre_feedforward_layernorm.weight",
        "model.layers.0.post_feedforward_layernorm.weight",
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.0.self_attn.k_norm.weight",
    ]
    assert all(checkpoint.read(name).tolist() == [0.25] * 4 for name in checkpoint.names()[1:])


def test_llama_queries_and_keys_come_back_in_hugging_face_order(tmp_path):
    q, k, bias = (np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in [(64, 8), (32, 8), (64,)])
    tensors = {
        "blk.0.attn_q.weight": permute_as_gguf(q, 4),
        "blk.0.attn_k.weight": permute_as_gguf(k, 2),
        "blk.0.attn_v.weight": k,
        "blk.0.attn_q.bias": permute_as_gguf(bias, 4),
    }
    checkpoint = open_gguf(tmp_path, tensors)
    np.testing.assert_array_equal(checkpoint.read("model.layers.0.self_attn.q_proj.weight"), q)
    np.testing.assert_array_equal(checkpoint.read("model.layers.0.self_attn.k_proj.weight"), k)
    np.testing.assert_array_equal(checkpoint.read("model.layers.0.self_attn.v_proj.weight"), k)
    np.testing.assert_array_equal(checkpoint.read("model.layers.0.self_attn.q_proj.bias"), bias)


def test_qwen3_keeps_its_rows_and_norms(tmp_path):
    q, norm = np.arange(128, dtype=np.float32).reshape(64, 2), np.full(4, 2.0, np.float32)
    tensors = {"blk.0.attn_q.weight": q, "blk.0.attn_q_norm.weight": norm}
    checkpoint = open_gguf(tmp_path, tensors, architecture="qwen3")
    np.testing.assert_array_equal(checkpoint.read("model.layers.0.self_attn.q_proj.weight"), q)
    np.testing.assert_array_equal(checkpoint.read("model.layers.0.self_attn.q_norm.weight"), norm)


def test_unknown_tensors_keep_their_names(tmp_path):
    checkpoint = open_gguf(tmp_path, {"blk.0.attn_sinks.weight": np.zeros(4), "strange": np.zeros(4)})
    assert checkpoint.names()[1:] == ["blk.0.attn_sinks.weight", "strange"]


def test_shapes_need_no_dequantising(tmp_path):
    assert open_gguf(tmp_path, {}).shape("model.embed_tokens.weight") == (10, 64)


def test_rows_that_do_not_divide_into_heads_are_an_error(tmp_path):
    checkpoint = open_gguf(tmp_path, {"blk.0.attn_q.weight": np.zeros((12, 64), np.float32)})
    with pytest.raises(CheckpointError, match=r"q_proj\.weight of shape \(12, 64\) does not divide into 4 heads"):
        checkpoint.read("model.layers.0.self_attn.q_proj.weight")
