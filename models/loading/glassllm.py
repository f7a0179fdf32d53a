"""The glassllm package's NumPy archives as a directory in Hugging Face layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

_SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")
_PIECES = r"\n|▁*[^▁\n]+|▁+"
_NORMS = {"norm1.gamma": "input_layernorm.weight", "norm2.gamma": "post_attention_layernorm.weight"}
_MATRICES = {
    "attn.W_Q": "self_attn.q_proj.weight",
    "attn.W_K": "self_attn.k_proj.weight",
    "attn.W_V": "self_attn.v_proj.weight",
    "attn.W_O": "self_attn.o_proj.weight",
    "ffn.W1": "mlp.gate_proj.weight",
    "ffn.W3": "mlp.up_proj.weight",
    "ffn.W2": "mlp.down_proj.weight",
}


def convert_glassllm(weights: Path, tokenizer: Path, directory: Path) -> None:
    """Writes config, tokenizer and weights (float16, as they are) of one glassllm model."""
    directory.mkdir(parents=True)
    with np.load(weights) as archive:
        arrays = {name: archive[name] for name in archive.files}
    settings = json.loads(str(arrays.pop("__config__")))
    tensors = _hf_tensors(arrays, settings)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    hidden_rows = tensors["model.layers.0.mlp.gate_proj.weight"].shape[0]
    _write_json(directory / "config.json", _hf_config(settings, hidden_rows))
    _write_json(directory / "tokenizer.json", _hf_tokenizer(json.loads(tokenizer.read_text(encoding="utf-8"))))
    _write_json(directory / "tokenizer_config.json", _tokenizer_config(settings["max_len"]))


def _hf_tensors(arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> dict[str, np.ndarray]:
    tensors = {"model.embed_tokens.weight": arrays["E"], "model.norm.weight": arrays["norm_f.gamma"]}
    for layer in range(settings["n_layers"]):
        ours, theirs = f"model.layers.{layer}.", f"blocks.{layer}."
        for name, hf_name in _NORMS.items():
            tensors[ours + hf_name] = arrays[theirs + name]
        for name, hf_name in _MATRICES.items():
            tensors[ours + hf_name] = np.ascontiguousarray(arrays[theirs + name].T)
        for part, heads in (("q", settings["n_heads"]), ("k", settings["n_kv_heads"])):
            name = f"{ours}self_attn.{part}_proj.weight"
            tensors[name] = _split_rotary_halves(tensors[name], heads)
    return tensors


def _split_rotary_halves(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Brings rows that rotate in neighbouring pairs to pairs half a head apart."""
    pairs = rows.reshape(num_heads, -1, 2, rows.shape[1])  # [heads, head_dim / 2, 2, hidden]
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def _hf_config(settings: dict[str, Any], intermediate_size: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": settings["vocab_size"],
        "hidden_size": settings["d_model"],
        "intermediate_size": intermediate_size,
        "num_hidden_layers": settings["n_layers"],
        "num_attention_heads": settings["n_heads"],
        "num_key_value_heads": settings["n_kv_heads"],
        "head_dim": settings["d_model"] // settings["n_heads"],
        "max_position_embeddings": settings["max_len"],
        "rope_theta": settings["rope_base"],
        "rope_scaling": None,
        "rms_norm_eps": settings["eps"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
    } | {f"{token.strip('<>')}_token_id": _SPECIAL_TOKENS.index(token) for token in ("<bos>", "<eos>", "<pad>")}


def _hf_tokenizer(model: dict[str, Any]) -> dict[str, Any]:
    merges = [list(pair) for pair in model["merges"]]
    tokens = [*_SPECIAL_TOKENS, *model["alphabet"], *("".join(pair) for pair in merges)]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": index, "content": token} | flags for index, token in enumerate(_SPECIAL_TOKENS)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}],
        },
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": _PIECES}, "behavior": "Isolated", "invert": False},
        "decoder": {
            "type": "Sequence",
            "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Fuse"}],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def _tokenizer_config(max_length: int) -> dict[str, Any]:
    names = {f"{token.strip('<>')}_token": token for token in _SPECIAL_TOKENS}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    } | names


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
