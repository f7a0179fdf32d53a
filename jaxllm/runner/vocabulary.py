"""Reductions and selections over the vocabulary axis, in groups, so that nothing ever sorts a whole row.

A row is cut into groups of neighbouring tokens. One pass reduces each group to a number; the rest of the work
touches those few numbers and the members of the chosen groups. The last group may be shorter; a window on it
starts earlier so that it stays inside the row, and the members that belong to the group before are masked.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

TOP_GROUP_SIZE = 32
"""Tokens a group of `top_tokens`: the maxima of V / 32 groups and the members of k groups are both short to sort."""


def reduce_groups(
    values: Float[Array, "rows vocab"], group_size: int, reduce: Callable[..., Array]
) -> Float[Array, "rows groups"]:
    """`reduce` (such as jnp.sum) of each group of `group_size` tokens; the last group may be shorter."""
    rows, vocab_size = values.shape
    whole = vocab_size // group_size * group_size
    groups = reduce(values[:, :whole].reshape(rows, -1, group_size), axis=-1)
    if whole == vocab_size:
        return groups
    return jnp.concatenate([groups, reduce(values[:, whole:], axis=-1, keepdims=True)], axis=-1)


def group_windows(
    values: Float[Array, "rows vocab"], groups: Int[Array, "rows chosen"], group_size: int
) -> tuple[Float[Array, "rows members"], Int[Array, "rows members"], Bool[Array, "rows members"]]:
    """The members of the chosen groups, in the order of `groups`: values, token ids, whether each is in its group."""
    rows, vocab_size = values.shape
    starts = jnp.minimum(groups * group_size, vocab_size - group_size)  # [rows, chosen]

    def row_windows(row: Array, row_starts: Array) -> Array:
        return jax.vmap(lambda start: lax.dynamic_slice(row, (start,), (group_size,)))(row_starts)

    windows = jax.vmap(row_windows)(values, starts)  # [rows, chosen, group_size]
    ids = starts[:, :, None] + jnp.arange(group_size, dtype=jnp.int32)[None, None, :]
    belongs = ids >= groups[:, :, None] * group_size
    return windows.reshape(rows, -1), ids.reshape(rows, -1), belongs.reshape(rows, -1)


def argmax(values: Float[Array, "rows vocab"]) -> tuple[Int[Array, " rows"], Float[Array, " rows"]]:
    """Lowest id of the largest value of each row, and that value in float32. Id 0 for a row of NaN."""
    vocab_size = values.shape[-1]
    maximum = values.max(axis=-1, keepdims=True)
    # Two plain reductions: on the CPU five times faster than the pair reduction of jnp.argmax.
    ids = lax.broadcasted_iota(jnp.int32, values.shape, 1)
    first = jnp.where(values >= maximum, ids, vocab_size).min(axis=-1)
    return jnp.where(first < vocab_size, first, 0), maximum[:, 0].astype(jnp.float32)


def top_tokens(values: Float[Array, "rows vocab"], k: int) -> tuple[Float[Array, "rows k"], Int[Array, "rows k"]]:
    """The k largest values of each row in float32 and their token ids, equal values by lowest id.

    Exact: each group that holds one of the k tokens is among the k groups with the largest maxima (equal maxima by
    lowest group), since every group before it in that order holds a token that comes before it, too.
    """
    assert k <= values.shape[-1], "more top tokens than the vocabulary has"
    values = values.astype(jnp.float32)
    if k == 0 or k * TOP_GROUP_SIZE >= values.shape[-1]:
        return lax.top_k(values, k)
    maxima = reduce_groups(values, TOP_GROUP_SIZE, jnp.max)
    _, groups = lax.top_k(maxima, k)
    groups = jnp.sort(groups, axis=-1)  # so that candidates are in the order of their ids
    candidates, ids, belongs = group_windows(values, groups, TOP_GROUP_SIZE)
    best, index = lax.top_k(jnp.where(belongs, candidates, -jnp.inf), k)
    return best, jnp.take_along_axis(ids, index, axis=-1)


def lowest_within(
    weight_above: Callable[[Array], Array], limit: Array, maximum: Float[Array, " rows"]
) -> Float[Array, " rows"]:
    """Per row, the lowest v with weight_above(v) < limit, by bisection over float32 bit patterns: at most 32 calls.

    `weight_above([rows]) -> [rows]` must not grow with v and must be below `limit` at `maximum`. Where a v hits the
    limit exactly, the bisection of that row ends there: the result may then lie between two of the row's values, but
    the same tokens are at or above it.
    """

    def unfinished(bounds: tuple[Array, Array]) -> Array:
        outside, inside = bounds
        return jnp.any(outside + 1 < inside)

    def halve(bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        outside, inside = bounds
        middle = (outside & inside) + ((outside ^ inside) >> 1)  # their mean, without overflow
        weight = weight_above(_from_ordered_bits(middle))
        finished = outside + 1 >= inside
        raised = jnp.where(weight >= limit, middle, outside)
        lowered = jnp.where(weight < limit, middle, jnp.where(weight == limit, middle + 1, inside))
        return jnp.where(finished, outside, raised), jnp.where(finished, inside, lowered)

    inside = _ordered_bits(maximum)
    outside = _ordered_bits(jnp.full_like(maximum, -jnp.inf)) - 1
    _, lowest = lax.while_loop(unfinished, halve, (outside, inside))
    return _from_ordered_bits(lowest)


def _ordered_bits(values: Array) -> Array:
    bits = lax.bitcast_convert_type(values, jnp.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _from_ordered_bits(keys: Array) -> Array:
    return lax.bitcast_convert_type(keys ^ ((keys >> 31) & 0x7FFFFFFF), jnp.float32)
