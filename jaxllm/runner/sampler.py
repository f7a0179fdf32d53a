"""From the logits of a step to its tokens: every request's own sampling parameters, in one program.

Everything here is traced into the step's program. What few requests ask for sits behind a condition on a scalar that the
host computes, so a batch without it does not pay. A row's token depends on its own logits, parameters and key.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.runner.adjustments import apply_bitmask, apply_edits, apply_penalties
from jaxllm.runner.draw import DrawInputs, draw, filter_floor, nucleus_floor
from jaxllm.runner.vocabulary import argmax, top_tokens

GREEDY_BELOW = 1e-5
"""A row with a temperature below this takes the likeliest token, the lowest id among equals."""

LogprobsMode = Literal["raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits"]


class SamplingInputs(NamedTuple):
    """Parameters of the rows that draw a token. Arrays are [rows] where nothing else is said."""

    temperature: jax.Array
    """float32; below GREEDY_BELOW the row is greedy and ignores top_k, top_p and min_p."""
    top_k: jax.Array
    """int32, 0 is off."""
    top_p: jax.Array
    """float32 in (0, 1], of the distribution that min_p and top_k leave."""
    min_p: jax.Array
    """float32 in [0, 1], relative to the likeliest token."""
    presence_penalty: jax.Array
    """float32, 0 is off."""
    frequency_penalty: jax.Array
    """float32, 0 is off."""
    repetition_penalty: jax.Array
    """float32, 1 is off."""
    seed_low: jax.Array
    """uint32, low half of the request's seed."""
    seed_high: jax.Array
    """uint32, high half of the request's seed."""
    position: jax.Array
    """int32, index in the sequence of the token to draw."""
    slot: jax.Array
    """int32, the row's row of the penalty counts; padding rows have the last, a dummy."""
    any_random: jax.Array
    """bool [], some row is not greedy. False: temperature, top_k, top_p, min_p, seed and position are ignored."""
    any_penalties: jax.Array
    """bool [], some row has a penalty. False: penalties, counts and slot are ignored."""
    any_edits: jax.Array
    """bool [], some row has an edit. False: edit_ids and edit_values are ignored."""
    any_bitmask: jax.Array
    """bool [], some row has a bit cleared. False: bitmask is ignored."""
    any_logprobs: jax.Array
    """bool [], some row wants logprobs. False: logprob, rank and top of the result are zeros."""
    edit_ids: jax.Array
    """int32 [rows, edits], tokens whose logits change; -1 is unused."""
    edit_values: jax.Array
    """float32 [rows, edits], added to the logits; -inf bans."""
    bitmask: jax.Array
    """uint32 [rows, ceil(vocab / 32)], token i is allowed if bit i % 32 of word i // 32 is set."""


class TokenScores(NamedTuple):
    """A token's place in its row's distribution, and the likeliest tokens of that row."""

    logprob: jax.Array
    """float32 [rows]"""
    rank: jax.Array
    """int32 [rows], 1 + number of tokens with a larger logit."""
    top_ids: jax.Array
    """int32 [rows, top], likeliest first, equals by lowest id."""
    top_logprobs: jax.Array
    """float32 [rows, top]"""


class SampleOutputs(NamedTuple):
    """The tokens of a step; all but `token_ids` are zeros unless some row wants logprobs."""

    token_ids: jax.Array
    """int32 [rows]"""
    logprob: jax.Array
    """float32 [rows]; in the modes *_logits a logit, here and in top_logprobs."""
    rank: jax.Array
    """int32 [rows], from 1."""
    top_ids: jax.Array
    """int32 [rows, max_logprobs]"""
    top_logprobs: jax.Array
    """float32 [rows, max_logprobs]"""


def sample(
    logits: jax.Array, counts: jax.Array, inputs: SamplingInputs, *, max_logprobs: int, logprobs_mode: LogprobsMode
) -> SampleOutputs:
    """Draws a token for each row of [rows, vocab] logits (float32 or bfloat16); `counts` is int16 [slots, vocab].

    `raw` logprobs are those of the untouched logits, `processed` ones those of the distribution that was drawn from
    (a greedy row: after penalties, bans and biases). A row of which every token is banned is drawn as if the row had
    no bans, biases or penalties. A row of NaN yields token 0.
    """
    needs_adjusting = inputs.any_bitmask | inputs.any_edits | inputs.any_penalties
    token_ids = lax.cond(
        needs_adjusting | inputs.any_random,
        lambda: _choose(_adjusted(logits, counts, inputs, needs_adjusting), inputs),
        lambda: argmax(logits)[0],
    )

    def scores() -> TokenScores:
        normalize = logprobs_mode.endswith("logprobs")
        if logprobs_mode.startswith("raw"):
            return score(logits, token_ids, top=max_logprobs, normalize=normalize)
        processed = _processed(_adjusted(logits, counts, inputs, needs_adjusting), inputs)
        return score(processed, token_ids, top=max_logprobs, normalize=normalize)

    shapes = jax.eval_shape(scores)
    return SampleOutputs(
        token_ids, *lax.cond(inputs.any_logprobs, scores, lambda: jax.tree.map(jnp.zeros_like, shapes))
    )


def score(logits: jax.Array, targets: jax.Array, *, top: int, normalize: bool = True) -> TokenScores:
    """Log-probability and rank of the targets [rows] under [rows, vocab] logits, with the `top` likeliest tokens.

    Without `normalize` the logits themselves stand in for log-probabilities.
    """
    logits = logits.astype(jnp.float32)
    target_logits = jnp.take_along_axis(logits, targets[:, None], axis=-1)  # [rows, 1]
    rank = 1 + (logits > target_logits).sum(axis=-1, dtype=jnp.int32)
    top_logits, top_ids = top_tokens(logits, top)
    shift = jax.nn.logsumexp(logits, axis=-1, keepdims=True) if normalize else jnp.float32(0)
    return TokenScores((target_logits - shift)[:, 0], rank, top_ids, top_logits - shift)


def _adjusted(logits: jax.Array, counts: jax.Array, inputs: SamplingInputs, needs_adjusting: jax.Array) -> jax.Array:
    """The logits in float32 after allowed tokens, bans, biases and penalties."""

    def adjust() -> jax.Array:
        adjusted = logits.astype(jnp.float32)
        adjusted = lax.cond(
            inputs.any_bitmask, lambda x: apply_bitmask(x, inputs.bitmask), lambda x: x, adjusted
        )
        adjusted = lax.cond(
            inputs.any_edits, lambda x: apply_edits(x, inputs.edit_ids, inputs.edit_values), lambda x: x, adjusted
        )
        adjusted = lax.cond(inputs.any_penalties, lambda x: _penalised(x, counts, inputs), lambda x: x, adjusted)
        is_possible = adjusted.max(axis=-1, keepdims=True) > -jnp.inf
        return jnp.where(is_possible, adjusted, logits.astype(jnp.float32))

    return lax.cond(needs_adjusting, adjust, lambda: logits.astype(jnp.float32))


def _penalised(logits: jax.Array, counts: jax.Array, inputs: SamplingInputs) -> jax.Array:
    return apply_penalties(
        logits, counts[inputs.slot], inputs.presence_penalty, inputs.frequency_penalty, inputs.repetition_penalty
    )


def _choose(logits: jax.Array, inputs: SamplingInputs) -> jax.Array:
    likeliest, maximum = argmax(logits)
    return lax.cond(
        inputs.any_random,
        lambda: draw(logits, maximum, _draw_inputs(inputs), likeliest, _is_random(inputs)),
        lambda: likeliest,
    )


def _processed(logits: jax.Array, inputs: SamplingInputs) -> jax.Array:
    """The logits of the distribution that random rows draw from, divided by temperature, -inf where cut."""

    def cut() -> jax.Array:
        maximum = logits.max(axis=-1)
        draw_inputs, wanted = _draw_inputs(inputs), _is_random(inputs)
        floor = filter_floor(logits, maximum, draw_inputs, wanted)
        floor = nucleus_floor(logits, maximum, draw_inputs, floor, wanted)
        is_cut = wanted[:, None] & (logits < floor[:, None])
        return jnp.where(is_cut, -jnp.inf, logits / draw_inputs.temperature[:, None])

    return lax.cond(inputs.any_random, cut, lambda: logits)


def _is_random(inputs: SamplingInputs) -> jax.Array:
    return inputs.temperature >= GREEDY_BELOW


def _draw_inputs(inputs: SamplingInputs) -> DrawInputs:
    keys = jax.random.wrap_key_data(jnp.stack([inputs.seed_high, inputs.seed_low], axis=-1), impl="threefry2x32")
    return DrawInputs(
        temperature=jnp.where(_is_random(inputs), inputs.temperature, 1),
        min_p=inputs.min_p,
        top_k=inputs.top_k,
        top_p=inputs.top_p,
        keys=jax.vmap(jax.random.fold_in)(keys, inputs.position),
    )
