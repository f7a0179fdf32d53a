"""Multi-head attention over the paged cache: projections, rotary embedding, and the paged attention op."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxllm.errors import UnsupportedModelError
from jaxllm.models.config import ModelConfig
from jaxllm.models.inputs import AttentionInputs, KVCache
from jaxllm.models.layers import RMSNorm, times_transposed
from jaxllm.models.parameters import parameter
from jaxllm.pallas_kernels.paged_attention.api import AttentionSpec, paged_attention
from jaxllm.pallas_kernels.paged_attention.heads import HeadInputs

Rope = tuple[Float[Array, "tokens half"], Float[Array, "tokens half"]]


@dataclass(frozen=True)
class HeadLayout:
    """How query heads are grouped by key-value heads when the model is split over `num_shards` devices.

    With more shards than key-value heads each of these is repeated, so that every shard owns whole groups.
    """

    kv_heads: int
    """Key-value heads in the cache, repeats included."""
    group: int
    """Query heads that share one of them."""
    repeat: int
    """Copies of each checkpoint key-value head."""
    head_dim: int

    @classmethod
    def of(cls, config: ModelConfig, num_shards: int) -> HeadLayout:
        """Raises UnsupportedModelError when the heads can't be split evenly."""
        heads, kv_heads = config.num_heads, config.num_kv_heads
        if heads % num_shards or (kv_heads % num_shards and num_shards % kv_heads):
            raise UnsupportedModelError(
                f"tensor_parallel_size={num_shards} can't split {heads} query heads and {kv_heads} key-value heads "
                "evenly"
            )
        repeat = max(1, num_shards // kv_heads)
        kv_heads *= repeat
        return cls(kv_heads=kv_heads, group=heads // kv_heads, repeat=repeat, head_dim=config.head_dim)


def _fuse_qkv(layout: HeadLayout) -> Callable[[list[np.ndarray]], np.ndarray]:
    """Puts each group's query rows, its key rows and its value rows side by side: [kv_heads, rows, ...]."""

    def assemble(tensors: list[np.ndarray]) -> np.ndarray:
        query, key, value = tensors
        tail = query.shape[1:]
        query = query.reshape(layout.kv_heads, layout.group * layout.head_dim, *tail)
        key, value = (np.repeat(t.reshape(-1, layout.head_dim, *tail), layout.repeat, axis=0) for t in (key, value))
        return np.concatenate([query, key, value], axis=1)

    return assemble


class Attention(nnx.Module):
    """Causal self-attention of one layer. Query, key and value come from one matrix [kv_heads, rows, hidden]."""

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        prefix: str,
        *,
        mesh: Mesh,
        output: str = "o_proj",
        qk_norm_offset: float | None = None,
    ) -> None:
        self.layout = layout = HeadLayout.of(config, mesh.size)
        self.mesh = mesh
        self.spec = AttentionSpec(
            scale=config.attention_scale,
            window=config.layer_windows[layer],
            soft_cap=config.attention_soft_cap,
            norm_eps=config.norm_eps,
            norm_offset=qk_norm_offset or 0.0,
        )
        rows = (layout.group + 2) * layout.head_dim
        projections = [f"{prefix}.{name}_proj" for name in "qkv"]
        fuse = _fuse_qkv(layout)
        self.qkv = parameter(
            (layout.kv_heads, rows, config.hidden_size),
            ("kv_heads", None, None),
            [f"{p}.weight" for p in projections],
            fuse,
        )
        self.qkv_bias = (
            parameter((layout.kv_heads, rows), ("kv_heads", None), [f"{p}.bias" for p in projections], fuse)
            if config.attention_bias
            else None
        )
        width = layout.group * layout.head_dim
        self.out = parameter(
            (config.hidden_size, layout.kv_heads, width),
            (None, "kv_heads", None),
            f"{prefix}.{output}.weight",
            _SplitOutput((config.hidden_size, layout.kv_heads, width)),
        )
        self.out_bias = (
            parameter((config.hidden_size,), (None,), f"{prefix}.{output}.bias")
            if config.attention_output_bias
            else None
        )
        norms = qk_norm_offset is not None
        offset = qk_norm_offset or 0.0
        self.q_norm = (
            RMSNorm(layout.head_dim, config.norm_eps, f"{prefix}.q_norm.weight", offset=offset) if norms else None
        )
        self.k_norm = (
            RMSNorm(layout.head_dim, config.norm_eps, f"{prefix}.k_norm.weight", offset=offset) if norms else None
        )

    def __call__(
        self, x: Float[Array, "tokens hidden"], rope: Rope | None, cache: KVCache, inputs: AttentionInputs
    ) -> tuple[Float[Array, "tokens hidden"], KVCache]:
        attended, keys, values = paged_attention(
            self._project(x),
            self._head_inputs(rope),
            cache.keys,
            cache.values,
            inputs,
            spec=self.spec,
            mesh=self.mesh,
        )
        weight = self.out[...]
        out = times_transposed(attended.reshape(x.shape[0], -1), weight.reshape(weight.shape[0], -1))
        if self.out_bias is not None:
            out = out + self.out_bias[...][None]
        return out, KVCache(keys, values)

    def _project(self, x: Float[Array, "tokens hidden"]) -> Float[Array, "tokens kv_heads members head_dim"]:
        layout, tokens = self.layout, x.shape[0]
        qkv = times_transposed(x, self.qkv[...]).reshape(tokens, layout.kv_heads, -1)  # [tokens, kv_heads, rows]
        if self.qkv_bias is not None:
            qkv = qkv + self.qkv_bias[...][None]
        return qkv.reshape(tokens, layout.kv_heads, layout.group + 2, layout.head_dim)

    def _head_inputs(self, rope: Rope | None) -> HeadInputs:
        if self.q_norm is None or self.k_norm is None:
            return HeadInputs(rope=rope)
        return HeadInputs(q_norm=self.q_norm.weight[...], k_norm=self.k_norm.weight[...], rope=rope)


@dataclass(frozen=True)
class _SplitOutput:
    """Views the output projection [hidden, heads * head_dim] by key-value head."""

    shape: tuple[int, ...]

    def __call__(self, tensors: list[np.ndarray]) -> np.ndarray:
        return tensors[0].reshape(self.shape)
