"""From a layer's projections to the vectors that attend: the norm of queries and keys, and the rotary embedding."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxllm.pallas_kernels.add_norm.reference import rms_norm


class HeadInputs(NamedTuple):
    """What is done to query and key heads before they meet, in this order, and their sinks; None leaves a part out."""

    q_norm: Float[Array, " head_dim"] | None = None
    """Weight of the queries' root mean square norm; present or absent together with `k_norm`."""
    k_norm: Float[Array, " head_dim"] | None = None
    rope: tuple[Float[Array, "tokens half"], Float[Array, "tokens half"]] | None = None
    """(cosines, sines) of the tokens' angles, float32."""
    sinks: Float[Array, "kv_heads group"] | None = None
    """A score of each query head that takes part in its softmax with a value of zero (Xiao et al. 2023, learned as in
    gpt-oss); it is neither scaled nor capped, and no window leaves it out."""


def split_heads(
    qkv: Float[Array, "tokens kv_heads members head_dim"], heads: HeadInputs, *, norm_eps: float, norm_offset: float
) -> tuple[Array, Array, Array]:
    """(query [tokens, kv_heads, group, head_dim], key, value [tokens, kv_heads, head_dim]); members are group + 2."""
    group = qkv.shape[2] - 2
    query, key, value = qkv[:, :, :group], qkv[:, :, group], qkv[:, :, group + 1]
    if heads.q_norm is not None and heads.k_norm is not None:
        norm = partial(rms_norm, eps=norm_eps, offset=norm_offset)
        query, key = norm(query, heads.q_norm), norm(key, heads.k_norm)
    if heads.rope is not None:
        query = apply_rope(query.reshape(query.shape[0], -1, query.shape[3]), *heads.rope).reshape(query.shape)
        key = apply_rope(key, *heads.rope)
    return query, key, value


def apply_rope(
    x: Float[Array, "tokens heads head_dim"], cos: Float[Array, "tokens half"], sin: Float[Array, "tokens half"]
) -> Float[Array, "tokens heads head_dim"]:
    """Rotates the pairs (i, i + head_dim / 2) of each head, in float32."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
