"""The layers that all families share. Matrices are kept as [out, in], the layout of the checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxllm.models.config import Activation, ModelConfig, RopeConfig
from jaxllm.models.parameters import parameter
from jaxllm.pallas_kernels.add_norm.api import add_rms_norm
from jaxllm.pallas_kernels.add_norm.reference import rms_norm
from jaxllm.pallas_kernels.matrix_vector.api import matrix_vector, product


def activate(name: Activation, x: Array) -> Array:
    """The activation `name`, computed in x's dtype."""
    match name:
        case "silu":
            return jax.nn.silu(x)
        case "relu":
            return jax.nn.relu(x)
        case "gelu":
            return jax.nn.gelu(x, approximate=False)
        case "gelu_pytorch_tanh":
            return jax.nn.gelu(x, approximate=True)


def times_transposed(x: Float[Array, "tokens in"], weight: Float[Array, "*out in"]) -> Float[Array, "tokens flat_out"]:
    """x W^T with all of W's leading axes taken as one: XLA would transpose a weight of more than two axes."""
    matrix = weight.reshape(-1, weight.shape[-1])
    return matrix_vector(x, matrix) if x.shape[0] == 1 else product(x, matrix)


class RMSNorm(nnx.Module):
    """Root mean square norm (Zhang and Sennrich 2019) in float32. `offset` is added to the weight (Gemma: 1)."""

    def __init__(self, size: int, eps: float, source: str, *, offset: float = 0.0) -> None:
        self.weight = parameter((size,), (None,), source)
        self.eps = eps
        self.offset = offset

    def __call__(self, x: Float[Array, "*batch size"]) -> Float[Array, "*batch size"]:
        return rms_norm(x, self.weight[...], eps=self.eps, offset=self.offset)

    def of_sum(
        self,
        x: Float[Array, "tokens size"],
        delta: Float[Array, "tokens size"],
        mesh: Mesh,
        *,
        delta_weight: Float[Array, " size"] | None = None,
    ) -> tuple[Float[Array, "tokens size"], Float[Array, "tokens size"]]:
        """(x + delta, its norm), one kernel on a GPU; a norm with `delta_weight` comes first for delta."""
        return add_rms_norm(x, delta, self.weight[...], delta_weight, eps=self.eps, offset=self.offset, mesh=mesh)


class LayerNorm(nnx.Module):
    """Layer norm in float32, with weight and bias if `affine`."""

    def __init__(self, size: int, eps: float, source: str, *, affine: bool = True) -> None:
        self.weight = parameter((size,), (None,), f"{source}.weight") if affine else None
        self.bias = parameter((size,), (None,), f"{source}.bias") if affine else None
        self.eps = eps

    def __call__(self, x: Float[Array, "tokens size"]) -> Float[Array, "tokens size"]:
        x32 = x.astype(jnp.float32)
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + self.eps)
        if self.weight is not None and self.bias is not None:
            normed = normed * self.weight[...].astype(jnp.float32)[None] + self.bias[...].astype(jnp.float32)[None]
        return normed.astype(x.dtype)


class Linear(nnx.Module):
    """y = x W^T + b. `axes` names the logical axes (out, in) for sharding."""

    def __init__(
        self, out_size: int, in_size: int, source: str, *, axes: Sequence[str | None], bias: bool = False
    ) -> None:
        self.weight = parameter((out_size, in_size), axes, f"{source}.weight")
        self.bias = parameter((out_size,), axes[:1], f"{source}.bias") if bias else None

    def __call__(self, x: Float[Array, "tokens in"]) -> Float[Array, "tokens out"]:
        y = times_transposed(x, self.weight[...])
        return y if self.bias is None else y + self.bias[...][None]


class Embedding(nnx.Module):
    """Token embedding; `attend` is its transpose, the tied output head."""

    def __init__(self, vocab_size: int, size: int, source: str) -> None:
        self.weight = parameter((vocab_size, size), ("vocab", None), source)

    def __call__(self, token_ids: Int[Array, " tokens"]) -> Float[Array, "tokens size"]:
        return self.weight[...].at[token_ids].get(mode="clip")

    def attend(self, x: Float[Array, "rows size"]) -> Float[Array, "rows vocab"]:
        return times_transposed(x, self.weight[...])


class GatedMLP(nnx.Module):
    """down(activation(gate(x)) * up(x)). Gate and up are one matrix, side by side in each of `num_shards` shards."""

    def __init__(self, config: ModelConfig, prefix: str, *, num_shards: int) -> None:
        size, hidden = config.intermediate_size, config.hidden_size
        shards = num_shards if size % num_shards == 0 else 1
        names = (f"{prefix}.gate_proj", f"{prefix}.up_proj")
        shape = (shards, 2, size // shards)
        fuse = _FuseGateUp(shape)
        self.gate_up = parameter((*shape, hidden), ("ffn", None, None, None), [f"{n}.weight" for n in names], fuse)
        self.gate_up_bias = (
            parameter(shape, ("ffn", None, None), [f"{n}.bias" for n in names], fuse) if config.mlp_bias else None
        )
        self.down = Linear(hidden, size, f"{prefix}.down_proj", axes=(None, "ffn"), bias=config.mlp_bias)
        self.activation = config.activation

    def __call__(self, x: Float[Array, "tokens hidden"]) -> Float[Array, "tokens hidden"]:
        weight = self.gate_up[...]
        gate_up = times_transposed(x, weight).reshape(x.shape[0], *weight.shape[:-1])  # [tokens, shards, 2, size]
        if self.gate_up_bias is not None:
            gate_up = gate_up + self.gate_up_bias[...][None]
        gated = activate(self.activation, gate_up[:, :, 0]) * gate_up[:, :, 1]
        return self.down(gated.reshape(x.shape[0], -1))


@dataclass(frozen=True)
class _FuseGateUp:
    """Stacks gate and up within each shard."""

    shape: tuple[int, int, int]

    def __call__(self, tensors: list[np.ndarray]) -> np.ndarray:
        shards, _, size = self.shape
        return np.stack([tensor.reshape(shards, size, *tensor.shape[1:]) for tensor in tensors], axis=1)


def rope_frequencies(config: RopeConfig, head_dim: int) -> np.ndarray:
    """Inverse frequencies of the rotary embedding, float32 [head_dim / 2].

    Source: Su et al. 2021; the llama3 stretch follows the Llama 3.1 reference: wavelengths longer than the original
    context are divided by `factor`, short ones stay, those between are blended.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (1.0 / (np.float32(config.theta) ** exponents)).astype(np.float32)
    if config.scaling == "linear":
        return frequencies / np.float32(config.factor)
    if config.scaling == "llama3":
        wavelengths = 2 * np.pi / frequencies
        original = config.original_max_position_embeddings
        low, high = config.low_freq_factor, config.high_freq_factor
        smooth = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
        return ((1 - smooth) * frequencies / config.factor + smooth * frequencies).astype(np.float32)
    return frequencies


def rope_tables(
    config: RopeConfig, head_dim: int, positions: Int[Array, " tokens"]
) -> tuple[Float[Array, "tokens half"], Float[Array, "tokens half"]]:
    """(cosines, sines) of the tokens' angles, float32."""
    angles = positions.astype(jnp.float32)[:, None] * jnp.asarray(rope_frequencies(config, head_dim))[None]
    # Behind a barrier, else XLA would compute cosines again in every layer and head that reads them.
    return jax.lax.optimization_barrier((jnp.cos(angles), jnp.sin(angles)))
