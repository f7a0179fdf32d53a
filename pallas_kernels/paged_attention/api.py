"""Ragged paged attention: writes the step's keys and values into the pages, then attends over them.

One call serves any mix of decode tokens and prompt chunks. The op owns the layout of the cache,
[pages, page_size, kv_heads, head_dim] for keys and for values, and runs under shard_map: every device holds its own
key-value heads of all pages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxllm.errors import DeviceError
from jaxllm.pallas_kernels.jax_triton import compute_capability, require_triton
from jaxllm.pallas_kernels.paged_attention import xla
from jaxllm.pallas_kernels.paged_attention.heads import HeadInputs, split_heads


@dataclass(frozen=True)
class AttentionSpec:
    """What is fixed for a layer."""

    scale: float
    """Factor on query-key products."""
    window: int | None = None
    """Sliding window in tokens, the query's own position included; None attends to all."""
    soft_cap: float | None = None
    """Scores become soft_cap * tanh(score / soft_cap)."""
    norm_eps: float = 1e-6
    """Added to the mean square in the norm of queries and keys, where there is one."""
    norm_offset: float = 0.0
    """Added to the weights of that norm."""


class RaggedInputs(Protocol):
    """The step's layout; `jaxllm.models.inputs.AttentionInputs` describes each field."""

    @property
    def positions(self) -> Int[Array, " tokens"]: ...
    @property
    def slot_mapping(self) -> Int[Array, " tokens"]: ...
    @property
    def page_tables(self) -> Int[Array, "requests pages"]: ...
    @property
    def context_lens(self) -> Int[Array, " requests"]: ...
    @property
    def num_decodes(self) -> Int[Array, ""]: ...
    @property
    def tiles(self) -> Int[Array, "tiles 3"]: ...
    @property
    def num_tiles(self) -> Int[Array, ""]: ...


def _xla(
    qkv: Array, heads: HeadInputs, keys: Array, values: Array, inputs: RaggedInputs, *, spec: AttentionSpec
) -> tuple[Array, Array, Array]:
    query, key, value = split_heads(qkv, heads, norm_eps=spec.norm_eps, norm_offset=spec.norm_offset)
    return xla.paged_attention(query, key, value, keys, values, inputs, spec=spec, sinks=heads.sinks)


def _triton(*arguments: Any, spec: AttentionSpec) -> tuple[Array, Array, Array]:
    # Imported at the first call: triton is there on GPUs only.
    from jaxllm.pallas_kernels.paged_attention import triton

    return triton.paged_attention(*arguments, spec=spec)


BACKENDS: dict[str, Callable[..., tuple[Array, Array, Array]]] = {"cpu": _xla, "gpu": _triton}
"""The implementation of each platform that has one."""


FP8_CAPABILITY = 89
"""Oldest GPUs that convert from float8_e4m3fn."""


def require_backend(platform: str) -> None:
    """Raises DeviceError when no implementation can run on `platform`: there is no silent slow fallback."""
    if platform not in BACKENDS:
        raise DeviceError(
            f"no paged attention kernel for platform {platform!r} in this version; "
            f"available: {sorted(BACKENDS)}. Set device='cpu' (or JAX_PLATFORMS=cpu) to run on the CPU."
        )
    if platform == "gpu":
        require_triton()


def require_cache_dtype(dtype: str, platform: str) -> None:
    """Raises DeviceError when a GPU can't convert from the cache's type."""
    if platform == "gpu" and dtype == "float8_e4m3fn" and compute_capability() < FP8_CAPABILITY:
        raise DeviceError(
            "kv_cache_dtype fp8 (fp8_e4m3) needs a GPU of compute capability 8.9 (Ada) or newer; on older ones "
            "fp8_e5m2 takes as little memory"
        )


def paged_attention(
    qkv: Float[Array, "tokens kv_heads members head_dim"],
    heads: HeadInputs,
    keys: Float[Array, "pages page_size kv_heads head_dim"],
    values: Float[Array, "pages page_size kv_heads head_dim"],
    inputs: RaggedInputs,
    *,
    spec: AttentionSpec,
    mesh: Mesh,
) -> tuple[Array, Array, Array]:
    """(attended [tokens, kv_heads, group, head_dim], keys, values); the cache comes back with the new entries.

    The cache may be of another type than the projections, also of 8 bits: entries are rounded to it, those that are too
    large to its largest value.

    `qkv` are the projections: for each key-value head the `group` query heads that share it, its key and its value, so
    members are group + 2. Rows of padding tokens hold finite garbage. `mesh` has one axis, which splits kv_heads.
    """
    if keys.shape != values.shape or keys.shape[2:] != (qkv.shape[1], qkv.shape[3]):
        raise ValueError(f"caches {keys.shape} and {values.shape} do not hold the heads of projections {qkv.shape}")
    if (heads.q_norm is None) != (heads.k_norm is None):
        raise ValueError("queries and keys are normed together: expected both of q_norm and k_norm or neither")
    group = qkv.shape[2] - 2
    if heads.sinks is not None and heads.sinks.shape != (qkv.shape[1], group):
        raise ValueError(f"expected a sink of each query head, {(qkv.shape[1], group)}, got {heads.sinks.shape}")
    platform = mesh.devices.flat[0].platform
    require_backend(platform)
    (axis,) = mesh.axis_names
    split, cache, replicated = PartitionSpec(None, axis), PartitionSpec(None, None, axis), PartitionSpec()
    heads_spec, inputs_spec = (jax.tree.map(lambda _: replicated, tree) for tree in (heads, inputs))
    if heads.sinks is not None:
        heads_spec = heads_spec._replace(sinks=PartitionSpec(axis))
    return jax.shard_map(
        partial(BACKENDS[platform], spec=spec),
        mesh=mesh,
        in_specs=(split, heads_spec, cache, cache, inputs_spec),
        out_specs=(split, cache, cache),
        check_vma=False,
    )(qkv, heads, keys, values, inputs)
