"""Models of transformers with weights dequantised to float32 from a GGUF file, by a mapping of our own. Needs torch."""

# torch lives in a second environment.
# mypy: disable-error-code="import-not-found,untyped-decorator,misc"
# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

LAYER_NAMES = {
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "attn_norm.weight": "input_layernorm.weight",
}
LLAMA_LAYER_NAMES = {**LAYER_NAMES, "ffn_norm.weight": "post_attention_layernorm.weight"}
GEMMA3_LAYER_NAMES = {
    **LAYER_NAMES,
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
}
MODEL_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


@dataclass(frozen=True, kw_only=True)
class GgufFile:
    """Metadata, and tensors dequantised to float32 in the shapes of torch's Linear."""

    metadata: dict[str, Any]
    tensors: dict[str, np.ndarray]


def read_gguf(path: Path) -> GgufFile:
    """Dequantises the whole file: several seconds and four bytes a weight."""
    reader = gguf.GGUFReader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        tensors[tensor.name] = values.reshape([int(size) for size in reversed(tensor.shape)])
    return GgufFile(metadata=metadata, tensors=tensors)


def build_llama(file: GgufFile) -> transformers.LlamaForCausalLM:
    get = file.metadata.__getitem__
    num_heads, num_kv_heads = get("llama.attention.head_count"), get("llama.attention.head_count_kv")
    config = transformers.LlamaConfig(
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        hidden_size=get("llama.embedding_length"),
        intermediate_size=get("llama.feed_forward_length"),
        num_hidden_layers=get("llama.block_count"),
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        max_position_embeddings=get("llama.context_length"),
        rms_norm_eps=get("llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": get("llama.rope.freq_base")},
        tie_word_embeddings="output.weight" not in file.tensors,
    )

    def adjust(name: str, values: np.ndarray) -> np.ndarray:
        if name.endswith("attn_q.weight"):
            return to_rotary_halves(values, num_heads)
        return to_rotary_halves(values, num_kv_heads) if name.endswith("attn_k.weight") else values

    return _build(transformers.LlamaForCausalLM, config, file, LLAMA_LAYER_NAMES, adjust)


def build_gemma3(file: GgufFile) -> transformers.Gemma3ForCausalLM:
    get = file.metadata.__getitem__
    config = transformers.Gemma3TextConfig(
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        hidden_size=get("gemma3.embedding_length"),
        intermediate_size=get("gemma3.feed_forward_length"),
        num_hidden_layers=get("gemma3.block_count"),
        num_attention_heads=get("gemma3.attention.head_count"),
        num_key_value_heads=get("gemma3.attention.head_count_kv"),
        head_dim=get("gemma3.attention.key_length"),
        query_pre_attn_scalar=get("gemma3.attention.key_length"),
        max_position_embeddings=get("gemma3.context_length"),
        rms_norm_eps=get("gemma3.attention.layer_norm_rms_epsilon"),
        sliding_window=get("gemma3.attention.sliding_window"),
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": get("gemma3.rope.freq_base")},
        },
    )

    def adjust(name: str, values: np.ndarray) -> np.ndarray:
        # The file holds 1 + w where transformers holds w.
        return values - np.float32(1) if name.endswith("norm.weight") else values

    return _build(transformers.Gemma3ForCausalLM, config, file, GEMMA3_LAYER_NAMES, adjust)


def _build(
    model_class: type[transformers.PreTrainedModel],
    config: transformers.PreTrainedConfig,
    file: GgufFile,
    layer_names: dict[str, str],
    adjust: Callable[[str, np.ndarray], np.ndarray],
) -> Any:
    state = {}
    for name, values in file.tensors.items():
        if name.startswith("blk."):
            _, layer, rest = name.split(".", 2)
            target = f"model.layers.{layer}.{layer_names[rest]}"
        else:
            target = MODEL_NAMES[name]
        state[target] = torch.from_numpy(np.ascontiguousarray(adjust(name, values)))
    model = model_class(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"}, f"missing {missing}"
    assert not unexpected, f"unexpected {unexpected}"
    model.tie_weights()
    return model.float().eval()


def to_rotary_halves(values: np.ndarray, num_heads: int) -> np.ndarray:
    """Reorders a head's rows from interleaved rotary pairs (0, 1), (2, 3) ... to pairs half a head apart."""
    rows, columns = values.shape
    pairs = values.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.transpose(0, 2, 1, 3).reshape(rows, columns)


def smollm2_tokenizer(file: GgufFile) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE where each digit stands alone, which transformers' own GGUF conversion leaves out."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = file.metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in file.metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    types = file.metadata["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    wrapped.chat_template = file.metadata["tokenizer.chat_template"]
    return wrapped
