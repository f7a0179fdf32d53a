"""What a model port needs to know, read once from a Hugging Face style configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxllm.errors import UnsupportedModelError

Activation = Literal["silu", "gelu", "gelu_pytorch_tanh", "relu"]
_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_pytorch_tanh",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
}


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding (Su et al. 2021) and how it is stretched to longer contexts."""

    theta: float = 10000.0
    """Base of the geometric frequency series."""
    scaling: Literal["none", "linear", "llama3"] = "none"
    """`linear` divides all frequencies by `factor`; `llama3` only the low ones (Llama 3.1 report)."""
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shapes and switches of a decoder-only model, the same for every family."""

    architecture: str
    """First entry of `architectures`, for example LlamaForCausalLM."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    """Longest sequence the checkpoint was made for, in tokens."""
    norm_eps: float
    activation: Activation
    tie_word_embeddings: bool
    attention_bias: bool
    """Biases on the query, key and value projections."""
    attention_output_bias: bool
    mlp_bias: bool
    rope: RopeConfig
    """For layers with full attention."""
    local_rope: RopeConfig
    """For layers with a sliding window; equal to `rope` in most families."""
    layer_windows: tuple[int | None, ...]
    """Sliding window of each layer in tokens, the token itself included; None attends to all."""
    attention_scale: float
    """Factor on query-key products before the softmax."""
    attention_soft_cap: float | None
    logit_soft_cap: float | None
    embedding_scale: float
    """Factor on token embeddings (Gemma: sqrt(hidden_size))."""
    dtype: str
    """Dtype the checkpoint was saved in."""
    word_embedding_size: int
    """Width of the token embedding; differs from hidden_size in OPT-350m."""
    norm_before: bool
    """Pre-layer-norm (True) or post-layer-norm blocks (OPT-350m)."""
    norm_affine: bool
    """Whether layer norms have weights (false in a few OPT checkpoints)."""
    eos_token_ids: tuple[int, ...]
    saved_cache_dtype: str | None = None
    """What the checkpoint wants its keys and values kept in, by the name that jax knows; None leaves it to others."""

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> ModelConfig:
        """Reads a `config.json` dict. Raises UnsupportedModelError for features that no port implements."""
        architecture = (hf.get("architectures") or ["unknown"])[0]
        if "text_config" in hf:
            hf = {**hf, **hf["text_config"], "architectures": hf.get("architectures")}
        try:
            return _read(cls, architecture, hf)
        except KeyError as error:
            raise UnsupportedModelError(f"the configuration of {architecture} lacks the field {error}") from error


def _read(cls: type[ModelConfig], architecture: str, hf: Mapping[str, Any]) -> ModelConfig:
    quantization = hf.get("quantization_config") or {}
    has_cache_of_8_bits = _quantizes_the_cache_alone(quantization)
    if quantization and not has_cache_of_8_bits:
        method = quantization.get("quant_method", "unknown")
        raise UnsupportedModelError(f"quantised checkpoints are not supported yet (quant_method is {method!r})")
    num_heads = hf["num_attention_heads"]
    num_layers = hf["num_hidden_layers"]
    hidden_size = hf["hidden_size"]
    head_dim = hf.get("head_dim") or hidden_size // num_heads
    is_opt = architecture.startswith("OPT")
    is_gemma = architecture.startswith("Gemma")
    bias = bool(hf.get("attention_bias", hf.get("enable_bias", True) if is_opt else False))
    rope, local_rope = _ropes(hf)
    scale_width = hf.get("query_pre_attn_scalar") or head_dim
    return cls(
        architecture=architecture,
        vocab_size=hf["vocab_size"],
        hidden_size=hidden_size,
        intermediate_size=hf["ffn_dim"] if is_opt else hf["intermediate_size"],
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=hf.get("num_key_value_heads") or num_heads,
        head_dim=head_dim,
        max_position_embeddings=hf["max_position_embeddings"],
        norm_eps=1e-5 if is_opt else hf["rms_norm_eps"],
        activation=_activation(hf),
        tie_word_embeddings=bool(hf.get("tie_word_embeddings", is_opt or is_gemma)),
        attention_bias=bias,
        attention_output_bias=bias,
        mlp_bias=bool(hf.get("mlp_bias", hf.get("enable_bias", True) if is_opt else False)),
        rope=rope,
        local_rope=local_rope,
        layer_windows=_windows(hf, num_layers),
        attention_scale=float(scale_width) ** -0.5,
        attention_soft_cap=hf.get("attn_logit_softcapping"),
        logit_soft_cap=hf.get("final_logit_softcapping"),
        embedding_scale=float(hidden_size) ** 0.5 if is_gemma else 1.0,
        dtype=str(hf.get("dtype") or hf.get("torch_dtype") or "float32").removeprefix("torch."),
        word_embedding_size=hf.get("word_embed_proj_dim") or hidden_size,
        norm_before=bool(hf.get("do_layer_norm_before", True)),
        norm_affine=bool(hf.get("layer_norm_elementwise_affine", True)),
        eos_token_ids=_ids(hf.get("eos_token_id")),
        saved_cache_dtype="float8_e4m3fn" if has_cache_of_8_bits else None,
    )


def _quantizes_the_cache_alone(quantization: Mapping[str, Any]) -> bool:
    """Whether weights and activations are as usual, and only keys and values are to be kept in 8 bits."""
    match quantization.get("quant_method"):
        case "compressed-tensors":
            scheme = quantization.get("kv_cache_scheme") or {}
            is_fp8 = scheme.get("num_bits") == 8 and scheme.get("type") == "float"
            return is_fp8 and not quantization.get("config_groups")
        case "modelopt":
            return quantization.get("kv_cache_quant_algo") == "FP8" and not quantization.get("quant_algo")
    return False


def _activation(hf: Mapping[str, Any]) -> Activation:
    name = hf.get("hidden_activation") or hf.get("hidden_act") or hf.get("activation_function") or "silu"
    if name not in _ACTIVATIONS:
        raise UnsupportedModelError(f"activation {name!r} is not supported; known: {sorted(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (int(value),)


def _windows(hf: Mapping[str, Any], num_layers: int) -> tuple[int | None, ...]:
    """The layers' windows from `layer_types`, or from Gemma's older every-nth-layer-is-global pattern."""
    window = hf.get("sliding_window")
    if not window or hf.get("use_sliding_window") is False:
        return (None,) * num_layers
    if layer_types := hf.get("layer_types"):
        return tuple(window if kind == "sliding_attention" else None for kind in layer_types)
    if pattern := hf.get("sliding_window_pattern") or hf.get("_sliding_window_pattern"):
        return tuple(None if (layer + 1) % pattern == 0 else window for layer in range(num_layers))
    return (window,) * num_layers


def _ropes(hf: Mapping[str, Any]) -> tuple[RopeConfig, RopeConfig]:
    """(full attention, sliding attention), from `rope_parameters` (transformers 5) or the older flat fields."""
    parameters = hf.get("rope_parameters")
    if parameters and "full_attention" in parameters:
        return _rope(parameters["full_attention"]), _rope(parameters["sliding_attention"])
    theta = hf.get("rope_theta", 10000.0)
    shared = _rope({"rope_theta": theta, **(hf.get("rope_scaling") or {}), **(parameters or {})})
    if local_theta := hf.get("rope_local_base_freq"):
        return shared, RopeConfig(theta=local_theta)
    return shared, shared


def _rope(parameters: Mapping[str, Any]) -> RopeConfig:
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    theta = float(parameters.get("rope_theta", 10000.0))
    if kind == "default":
        return RopeConfig(theta=theta)
    factor = float(parameters.get("factor", 1.0))
    if kind == "linear":
        return RopeConfig(theta=theta, scaling="linear", factor=factor)
    if kind == "llama3":
        return RopeConfig(
            theta=theta,
            scaling="llama3",
            factor=factor,
            low_freq_factor=float(parameters["low_freq_factor"]),
            high_freq_factor=float(parameters["high_freq_factor"]),
            original_max_position_embeddings=int(parameters["original_max_position_embeddings"]),
        )
    raise UnsupportedModelError(f"rope scaling {kind!r} is not supported; known: default, linear, llama3")
