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
from jaxllm.pallas_kernels.jax_triton import require_triton
from jaxllm.pallas_kernels.paged_attention import xla


@dataclass(frozen=True)
class AttentionSpec:
    """What is fixed for a layer."""

    scale: float
    """Factor on query-key products."""
    window: int | None = None
    """Sliding window in tokens, the query's own position included; None attends to all."""
    soft_cap: float | None = None
    """Scores become soft_cap * tanh(score / soft_cap)."""


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


def _triton(*arguments: Any, spec: AttentionSpec) -> tuple[Array, Array, Array]:
    # Imported at the first call: triton is there on GPUs only.
    from jaxllm.pallas_kernels.paged_attention import triton

    return triton.paged_attention(*arguments, spec=spec)


BACKENDS: dict[str, Callable[..., tuple[Array, Array, Array]]] = {"cpu": xla.paged_attention, "gpu": _triton}
"""The implementation of each platform that has one."""


def require_backend(platform: str) -> None:
    """Raises DeviceError when no implementation can run on `platform`: there is no silent slow fallback."""
    if platform not in BACKENDS:
        raise DeviceError(
            f"no paged attention kernel for platform {platform!r} in this version; "
            f"available: {sorted(BACKENDS)}. Set device='cpu' (or JAX_PLATFORMS=cpu) to run on the CPU."
        )
    if platform == "gpu":
        require_triton()


def paged_attention(
    query: Float[Array, "tokens kv_heads group head_dim"],
    key: Float[Array, "tokens kv_heads head_dim"],
    value: Float[Array, "tokens kv_heads head_dim"],
    keys: Float[Array, "pages page_size kv_heads head_dim"],
    values: Float[Array, "pages page_size kv_heads head_dim"],
    inputs: RaggedInputs,
    *,
    spec: AttentionSpec,
    mesh: Mesh,
) -> tuple[Array, Array, Array]:
    """(attended [tokens, kv_heads, group, head_dim], keys, values); the cache comes back with the new entries.

    Rows of padding tokens hold finite garbage. `mesh` has one axis, over which kv_heads is split.
    """
    if key.shape != value.shape or query.shape[:2] != key.shape[:2] or query.shape[3:] != key.shape[2:]:
        raise ValueError(f"shapes disagree: query {query.shape}, key {key.shape}, value {value.shape}")
    if keys.shape != values.shape or keys.shape[2:] != key.shape[1:]:
        raise ValueError(f"cache {keys.shape} does not hold keys of shape {key.shape}")
    platform = mesh.devices.flat[0].platform
    require_backend(platform)
    (axis,) = mesh.axis_names
    heads, cache, replicated = PartitionSpec(None, axis), PartitionSpec(None, None, axis), PartitionSpec()
    return jax.shard_map(
        partial(BACKENDS[platform], spec=spec),
        mesh=mesh,
        in_specs=(heads, heads, heads, cache, cache, jax.tree.map(lambda _: replicated, inputs)),
        out_specs=(heads, cache, cache),
        check_vma=False,
    )(query, key, value, keys, values, inputs)
