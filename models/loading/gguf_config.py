"""The Hugging Face style config that a GGUF file's metadata amounts to."""

from typing import Any

import numpy as np

from jaxllm.errors import CheckpointError, UnsupportedModelError
from jaxllm.models.loading.gguf_file import GgufFile

_ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text"),
}
_GEMMA3_WINDOW_PATTERN = 6
_GEMMA3_27B_LAYERS = 62
_LLAMA3_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def gguf_architecture(file: GgufFile) -> str:
    """Gives the file's architecture, one of those whose tensors and metadata can be translated."""
    if (num_parts := file.metadata.get("split.count", 1)) > 1:
        raise UnsupportedModelError(
            f"{file.path} is one of {num_parts} parts of a split GGUF file: join them with llama-gguf-split --merge."
        )
    architecture = file.metadata.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise UnsupportedModelError(
            f"{file.path} has the GGUF architecture {architecture!r}; supported are {', '.join(_ARCHITECTURES)}."
        )
    return architecture


def gguf_hf_config(file: GgufFile) -> dict[str, Any]:
    """Gives what config.json of the same model says, as far as the metadata tell it."""
    architecture = gguf_architecture(file)
    metadata = _Metadata(file, architecture)
    hf_class, model_type = _ARCHITECTURES[architecture]
    if metadata.number("expert_count", 0):
        raise UnsupportedModelError(f"{file.path} is a mixture of experts, which is not supported in GGUF.")
    config: dict[str, Any] = {"architectures": [hf_class], "model_type": model_type, "torch_dtype": "bfloat16"}
    config |= _sizes(metadata) | _rope(metadata) | _token_ids(file.metadata)
    if architecture == "gemma3":
        config |= _gemma3(metadata, config)
    else:
        config["hidden_act"] = "silu"
    if architecture == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
        config["mlp_bias"] = "blk.0.ffn_gate.bias" in file.tensors
    return config


def gguf_generation_config(file: GgufFile) -> dict[str, Any]:
    """Gives the ids that begin and end a text; an end of turn or message ends it too."""
    ids = _token_ids(file.metadata)
    ends = [ids.get("eos_token_id"), *(file.metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eot", "eom"))]
    distinct = list(dict.fromkeys(end for end in ends if end is not None))
    if len(distinct) > 1:
        ids["eos_token_id"] = distinct
    return ids


class _Metadata:
    """The keys that begin with the architecture's name."""

    def __init__(self, file: GgufFile, architecture: str) -> None:
        self.file = file
        self._prefix = architecture + "."

    def get(self, key: str) -> Any:
        return self.file.metadata.get(self._prefix + key)

    def number(self, key: str, default: Any = None) -> Any:
        """Gives a number, or one that is the same for all layers; without a default the key must be there."""
        value = self.get(key)
        if isinstance(value, np.ndarray):
            if len(set(value.tolist())) != 1:
                raise UnsupportedModelError(f"{self.file.path}: {self._prefix}{key} differs between layers.")
            value = value[0].item()
        if value is None:
            if default is None:
                raise CheckpointError(f"{self.file.path} lacks the metadata {self._prefix}{key}.")
            return default
        return _shortest(value) if isinstance(value, float) else value

    def count(self, key: str, default: int | None = None) -> int:
        value = self.number(key, default)
        if not isinstance(value, int) or value <= 0:
            raise CheckpointError(f"{self.file.path}: {self._prefix}{key} is {value!r}, expected a positive count.")
        return value


def _shortest(value: float) -> float:
    """Gives the decimal number that was meant by a float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _sizes(metadata: _Metadata) -> dict[str, Any]:
    tensors = metadata.file.tensors
    if "token_embd.weight" not in tensors:
        raise CheckpointError(f"{metadata.file.path} has no tensor token_embd.weight: does it hold a vocabulary alone?")
    hidden, heads = metadata.count("embedding_length"), metadata.count("attention.head_count")
    rotary = metadata.count("rope.dimension_count", hidden // heads)
    return {
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": metadata.count("feed_forward_length"),
        "num_hidden_layers": metadata.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.count("attention.head_count_kv", heads),
        "head_dim": metadata.count("attention.key_length", rotary),
        "max_position_embeddings": metadata.count("context_length"),
        "rms_norm_eps": metadata.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in tensors,
    }


def _rope(metadata: _Metadata) -> dict[str, Any]:
    theta = metadata.number("rope.freq_base", 10000.0)
    kind = metadata.get("rope.scaling.type") or "none"
    if "rope_freqs.weight" in metadata.file.tensors:
        return {"rope_theta": theta, "rope_scaling": _llama3_scaling(metadata, theta)}
    if kind == "none":
        return {"rope_theta": theta, "rope_scaling": None}
    scaling = {"rope_type": kind, "factor": metadata.number("rope.scaling.factor")}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = metadata.number("rope.scaling.original_context_length")
    elif kind != "linear":
        raise UnsupportedModelError(f"{metadata.file.path} scales rope by {kind!r}; known are none, linear and yarn.")
    return {"rope_theta": theta, "rope_scaling": scaling}


def _llama3_scaling(metadata: _Metadata, theta: float) -> dict[str, Any]:
    """Finds Llama 3's rope scaling back from the divisors of the frequencies, all that a GGUF file keeps of it."""
    divisors = metadata.file.read("rope_freqs.weight").astype(np.float64)
    scaling: dict[str, Any] = {"rope_type": "llama3", "factor": _shortest(divisors.max())} | _LLAMA3_SCALING
    wavelengths = 2 * np.pi * theta ** (np.arange(len(divisors)) / len(divisors))
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] / wavelengths
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    expected = 1 / ((1 - smooth) / scaling["factor"] + smooth)
    if not np.allclose(expected, divisors, rtol=1e-4):
        raise UnsupportedModelError(
            f"{metadata.file.path}: the divisors in rope_freqs.weight are not those of Llama 3."
        )
    return scaling


def _token_ids(metadata: dict[str, Any]) -> dict[str, Any]:
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    found = {key: metadata.get(f"tokenizer.ggml.{name}_token_id") for key, name in names.items()}
    return {key: value for key, value in found.items() if value is not None}


def _gemma3(metadata: _Metadata, config: dict[str, Any]) -> dict[str, Any]:
    layers, head_dim = config["num_hidden_layers"], config["head_dim"]
    # Only the 27B model scales queries by something else than its head_dim, and the metadata don't say so.
    is_27b = layers == _GEMMA3_27B_LAYERS
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": config["hidden_size"] // config["num_attention_heads"] if is_27b else head_dim,
        "rope_local_base_freq": metadata.number("rope.freq_base_swa", 10000.0),
        "sliding_window": metadata.number("attention.sliding_window"),
        "layer_types": _window_layers(metadata, layers),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": metadata.get("final_logit_softcapping"),
    }


def _window_layers(metadata: _Metadata, layers: int) -> list[str]:
    pattern = metadata.get("attention.sliding_window_pattern")
    if isinstance(pattern, np.ndarray):
        has_window = [bool(flag) for flag in pattern]
    else:
        period = pattern or _GEMMA3_WINDOW_PATTERN
        has_window = [(layer + 1) % period != 0 for layer in range(layers)]
    return ["sliding_attention" if flag else "full_attention" for flag in has_window]
