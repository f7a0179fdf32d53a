"""A GGUF file's tensors under their Hugging Face names and in that layout."""

import re

import numpy as np

from jaxllm.errors import CheckpointError
from jaxllm.models.loading.gguf_config import gguf_architecture, gguf_hf_config
from jaxllm.models.loading.gguf_file import GgufFile

_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA3_LAYER_NAMES = _LAYER_NAMES | {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_LAYER_TENSOR = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
# It holds no weights: the config has its meaning as rope_scaling.
_ROPE_FREQUENCIES = "rope_freqs.weight"


class GgufCheckpoint:
    """A `Checkpoint` over a GGUF file; `read` dequantises to float32 on each call."""

    def __init__(self, file: GgufFile) -> None:
        self.location = str(file.path)
        self._file = file
        self._architecture = gguf_architecture(file)
        self._gguf_names = {self._hf_name(name): name for name in file.tensors if name != _ROPE_FREQUENCIES}
        config = gguf_hf_config(file)
        self._num_heads, self._num_kv_heads = config["num_attention_heads"], config["num_key_value_heads"]

    def names(self) -> list[str]:
        return list(self._gguf_names)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._file.tensors[self._gguf_names[name]].shape

    def read(self, name: str) -> np.ndarray:
        values = self._file.read(self._gguf_names[name])
        if self._architecture == "llama" and ".self_attn.q_proj." in name:
            return self._split_rotary_halves(name, values, self._num_heads)
        if self._architecture == "llama" and ".self_attn.k_proj." in name:
            return self._split_rotary_halves(name, values, self._num_kv_heads)
        if self._architecture == "gemma3" and name.endswith("norm.weight"):
            return values - 1  # the model multiplies by 1 + weight, the file holds the sum
        return values

    def _hf_name(self, name: str) -> str:
        layer_names = _GEMMA3_LAYER_NAMES if self._architecture == "gemma3" else _LAYER_NAMES
        if (match := _LAYER_TENSOR.fullmatch(name)) and match[2] in layer_names:
            return f"model.layers.{match[1]}.{layer_names[match[2]]}.{match[3]}"
        stem, _, suffix = name.rpartition(".")
        if stem in _TOP_NAMES:
            return f"{_TOP_NAMES[stem]}.{suffix}"
        return name  # kept as is, so that loading names it as unexpected

    def _split_rotary_halves(self, name: str, values: np.ndarray, num_heads: int) -> np.ndarray:
        """Brings rows that rotate in neighbouring pairs (GGUF) to pairs half a head apart (Hugging Face)."""
        if values.shape[0] % (2 * num_heads):
            raise CheckpointError(
                f"{self.location}: {name} of shape {values.shape} does not divide into {num_heads} heads."
            )
        half = values.shape[0] // (2 * num_heads)
        pairs = values.reshape(num_heads, half, 2, *values.shape[1:])  # [heads, head_dim / 2, 2, ...]
        return pairs.swapaxes(1, 2).reshape(values.shape)
