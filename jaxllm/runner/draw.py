"""Drawing one token a row from softmax(logits / temperature), cut by min_p, top_k and top_p, without sorting.

The tokens that min_p and top_k leave are those at or above one logit, the floor. top_p leaves the nucleus: every
token whose strictly likelier tokens have less than top_p of the mass Z at or above the floor (the token that crosses
top_p is in, and so are all its equals). A draw goes in rounds. Candidates of the first are all tokens at or above the
floor. A round draws a candidate with a chance proportional to its mass. If it lies in the nucleus it is the result.
If not, neither does anything at or below it: the candidates of the next round are the tokens strictly above.

Exact: the nucleus consists of candidates in every round, so a round that ends, ends with each nucleus token in
proportion to its mass, whatever the rounds before drew, since each round has fresh random words. Every round loses at
least the drawn token, so it ends; with a top_p of 0.95 nineteen of twenty draws end in the first.

A round costs one pass over the vocabulary, which gives the mass above the last drawn token by group: their sum
decides whether that token is in the nucleus, and the groups serve to draw the next.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from jaxllm.runner.vocabulary import group_windows, lowest_within, reduce_groups, top_tokens

DRAW_GROUP_SIZE = 256
"""Tokens a group: a draw chooses one group of V / 256, then one of its 256 tokens."""
SORTED_TOP_K = 64
"""A top_k up to this is read off the sorted best tokens; a larger one is bisected."""


class DrawInputs(NamedTuple):
    """What a draw depends on besides the logits."""

    temperature: Float[Array, " rows"]
    """Above 0."""
    min_p: Float[Array, " rows"]
    """0 leaves every token."""
    top_k: Int[Array, " rows"]
    """0 leaves every token."""
    top_p: Float[Array, " rows"]
    """1 leaves every token."""
    keys: Key[Array, " rows"]
    """Typed threefry keys; round i of a row uses the two words of fold_in(key, i)."""


class _Round(NamedTuple):
    number: Int[Array, ""]
    pending: Bool[Array, " rows"]  # token_ids is not known to be in the nucleus
    pivot: Float[Array, " rows"]  # the logit of token_ids; candidates lie strictly above
    limit: Float[Array, " rows"]  # top_p * Z
    token_ids: Int[Array, " rows"]


def draw(
    logits: Float[Array, "rows vocab"],
    maximum: Float[Array, " rows"],
    inputs: DrawInputs,
    initial_ids: Int[Array, " rows"],
    wanted: Bool[Array, " rows"],
) -> Int[Array, " rows"]:
    """Draws a token id for each `wanted` row of float32 logits; the other rows keep `initial_ids`."""
    floor = filter_floor(logits, maximum, inputs, wanted)

    def play(state: _Round) -> _Round:
        sums = _group_masses(logits, maximum, inputs.temperature, floor, state.pivot)
        mass = sums.sum(axis=-1)
        is_first = state.number == 0
        limit = jnp.where(is_first, _nucleus_limit(inputs.top_p, mass), state.limit)
        # Written so that NaN ends the row.
        rejected = state.pending & (is_first | (mass >= limit))
        drawn, value = _draw_candidate(logits, maximum, inputs, floor, state, sums)
        return _Round(
            number=state.number + 1,
            pending=rejected & (inputs.top_p < 1),
            pivot=jnp.where(rejected, value, state.pivot),
            limit=limit,
            token_ids=jnp.where(rejected, drawn, state.token_ids),
        )

    start = _Round(jnp.int32(0), wanted, jnp.full_like(maximum, -jnp.inf), jnp.zeros_like(maximum), initial_ids)
    return lax.while_loop(lambda state: state.pending.any(), play, start).token_ids


def filter_floor(
    logits: Float[Array, "rows vocab"],
    maximum: Float[Array, " rows"],
    inputs: DrawInputs,
    wanted: Bool[Array, " rows"],
) -> Float[Array, " rows"]:
    """The lowest logit that min_p and top_k leave in each `wanted` row."""
    vocab_size = logits.shape[-1]
    floor = maximum + inputs.temperature * jnp.log(inputs.min_p)
    limits_count = wanted & (inputs.top_k > 0) & (inputs.top_k < vocab_size)
    top_k = jnp.where(limits_count, inputs.top_k, 1)
    sortable = min(SORTED_TOP_K, vocab_size)

    def sort_best() -> Array:
        best, _ = top_tokens(logits, sortable)
        return jnp.take_along_axis(best, jnp.minimum(top_k, sortable)[:, None] - 1, axis=-1)[:, 0]

    def bisect() -> Array:
        return lowest_within(lambda value: (logits > value[:, None]).sum(axis=-1), top_k, maximum)

    # The way that finds a row's value depends on its own top_k alone, not on its neighbours.
    def kth_largest() -> Array:
        is_long = top_k > sortable
        long = lax.cond(is_long.any(), bisect, lambda: maximum)
        return jnp.where(is_long, long, sort_best())

    kth = lax.cond(limits_count.any(), kth_largest, lambda: maximum)
    return jnp.where(limits_count, jnp.maximum(floor, kth), floor)


def nucleus_floor(
    logits: Float[Array, "rows vocab"],
    maximum: Float[Array, " rows"],
    inputs: DrawInputs,
    floor: Float[Array, " rows"],
    wanted: Bool[Array, " rows"],
) -> Float[Array, " rows"]:
    """The lowest logit that top_p leaves of those at or above `floor`; some 25 passes over the vocabulary."""

    def mass_above(value: Array) -> Array:
        return _group_masses(logits, maximum, inputs.temperature, floor, value).sum(axis=-1)

    whole = mass_above(jnp.full_like(maximum, -jnp.inf))
    limit = jnp.where(wanted, _nucleus_limit(inputs.top_p, whole), jnp.inf)
    limit = jnp.where(inputs.top_p < 1, limit, jnp.inf)
    return jnp.maximum(floor, lowest_within(mass_above, limit, maximum))


def _nucleus_limit(top_p: Array, mass: Array) -> Array:
    return jnp.maximum(top_p * mass, 1e-30)  # above zero, so that the likeliest token is always in


def _masses(logits: Array, maximum: Array, temperature: Array, floor: Array, pivot: Array) -> Array:
    is_candidate = (logits >= floor[:, None]) & (logits > pivot[:, None])
    return jnp.where(is_candidate, jnp.exp((logits - maximum[:, None]) * (1 / temperature)[:, None]), 0)


def _group_size(vocab_size: int) -> int:
    return min(DRAW_GROUP_SIZE, vocab_size)


def _group_masses(logits: Array, maximum: Array, temperature: Array, floor: Array, pivot: Array) -> Array:
    masses = _masses(logits, maximum, temperature, floor, pivot)
    return reduce_groups(masses, _group_size(logits.shape[-1]), jnp.sum)


def _draw_candidate(
    logits: Array, maximum: Array, inputs: DrawInputs, floor: Array, state: _Round, sums: Array
) -> tuple[Array, Array]:
    """A candidate of each row, drawn in proportion to its mass: its id and its logit."""
    words = jax.random.key_data(jax.vmap(jax.random.fold_in, in_axes=(0, None))(inputs.keys, state.number))  # [rows, 2]
    group = _pick(sums, words[:, 0])
    values, ids, belongs = group_windows(logits, group[:, None], _group_size(logits.shape[-1]))
    masses = jnp.where(belongs, _masses(values, maximum, inputs.temperature, floor, state.pivot), 0)
    index = _pick(masses, words[:, 1])[:, None]
    return jnp.take_along_axis(ids, index, axis=-1)[:, 0], jnp.take_along_axis(values, index, axis=-1)[:, 0]


def _pick(weights: Array, words: Array) -> Array:
    """An index of each row of [rows, n] with a chance proportional to its weight, never one of weight 0."""
    uniform = (words >> 8).astype(jnp.float32) * (1 / (1 << 24))
    running = jnp.cumsum(weights, axis=-1)
    # A parallel running sum may wobble by a rounding, also where the weight is 0: both ends are guarded.
    count = weights.shape[-1]
    index = lax.broadcasted_iota(jnp.int32, weights.shape, 1)
    is_possible = weights > 0
    is_reached = is_possible & (running > (uniform * running[:, -1])[:, None])
    first_reached = jnp.where(is_reached, index, count).min(axis=-1)
    last_possible = jnp.where(is_possible, index, 0).max(axis=-1)
    return jnp.minimum(first_reached, last_possible)
