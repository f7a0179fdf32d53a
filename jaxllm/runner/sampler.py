"""From the logits of a step to its tokens: every request's own sampling parameters, in one program.

Everything here is traced into the step's program. What few requests ask for sits behind a condition on a scalar that
the host computes, so a batch without it does not pay. A row's token depends on its own logits, parameters and key.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Int16, UInt32

from jaxllm.runner.adjustments import apply_bitmask, apply_edits, apply_penalties
from jaxllm.runner.draw import DrawInputs, draw, filter_floor, nucleus_floor
from jaxllm.runner.vocabulary import argmax, top_tokens

GREEDY_BELOW = 1e-5
"""A row with a temperature below this takes the likeliest token, the lowest id among equals."""

LogprobsMode = Literal["raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits"]


class SamplingInputs(NamedTuple):
    """Parameters of the rows that draw a token, and scalars that say which of them matter."""

    temperature: Float[Array, " rows"]
    """Below GREEDY_BELOW the row is greedy and ignores top_k, top_p and min_p."""
    top_k: Int[Array, " rows"]
    """0 is off. Tokens equal to the last of the k stay, too."""
    top_p: Float[Array, " rows"]
    """In (0, 1], of the distribution that min_p and top_k leave."""
    min_p: Float[Array, " rows"]
    """In [0, 1], relative to the likeliest token."""
    presence_penalty: Float[Array, " rows"]
    """0 is off."""
    frequency_penalty: Float[Array, " rows"]
    """0 is off."""
    repetition_penalty: Float[Array, " rows"]
    """1 is off."""
    seed_low: UInt32[Array, " rows"]
    """Low half of the request's seed."""
    seed_high: UInt32[Array, " rows"]
    """High half of the request's seed."""
    position: Int[Array, " rows"]
    """Index in the sequence of the token to draw."""
    slot: Int[Array, " rows"]
    """The row of the penalty counts; padding rows have the last, a dummy."""
    any_random: Bool[Array, ""]
    """Some row is not greedy. False: temperature, top_k, top_p, min_p, seed and position are ignored."""
    any_penalties: Bool[Array, ""]
    """Some row has a penalty. False: the penalties, the counts and slot are ignored."""
    any_edits: Bool[Array, ""]
    """Some row has an edit. False: edit_ids and edit_values are ignored."""
    any_bitmask: Bool[Array, ""]
    """Some row has a bit cleared. False: bitmask is ignored."""
    any_logprobs: Bool[Array, ""]
    """Some row wants logprobs. False: all of the result but token_ids is zeros."""
    edit_ids: Int[Array, "rows edits"]
    """Tokens whose logits change; -1 is unused."""
    edit_values: Float[Array, "rows edits"]
    """Added to the logits; -inf bans."""
    bitmask: UInt32[Array, "rows words"]
    """Token i is allowed if bit i % 32 of word i // 32 is set."""


class TokenScores(NamedTuple):
    """A token's place in its row's distribution, and the likeliest tokens of that row."""

    logprob: Float[Array, " rows"]
    rank: Int[Array, " rows"]
    """1 + the number of tokens with a larger logit."""
    top_ids: Int[Array, "rows top"]
    """Likeliest first, equals by lowest id."""
    top_logprobs: Float[Array, "rows top"]


class SampleOutputs(NamedTuple):
    """The tokens of a step and, if some row wants logprobs, their scores as in `TokenScores` (zeros if none does)."""

    token_ids: Int[Array, " rows"]
    logprob: Float[Array, " rows"]
    """In the modes raw_logits and processed_logits a logit, here and in top_logprobs."""
    rank: Int[Array, " rows"]
    top_ids: Int[Array, "rows top"]
    top_logprobs: Float[Array, "rows top"]


def sample(
    logits: Float[Array, "rows vocab"],
    counts: Int16[Array, "slots vocab"],
    inputs: SamplingInputs,
    *,
    max_logprobs: int,
    logprobs_mode: LogprobsMode,
) -> SampleOutputs:
    """Draws a token for each row; `counts` are the penalty counts.

    Raw logprobs are those of the untouched logits, processed ones those of the distribution that was drawn from (for a
    greedy row: after penalties, bans and biases). A row of which every token is banned is drawn as if it had no bans,
    biases or penalties. A row of NaN yields token 0.
    """
    needs_adjusting = inputs.any_bitmask | inputs.any_edits | inputs.any_penalties
    token_ids = lax.cond(
        needs_adjusting | inputs.any_random,
        lambda: _choose(_adjusted(logits, counts, inputs, needs_adjusting), inputs),
        lambda: argmax(logits)[0],
    )

    def scores() -> TokenScores:
        scored = logits
        if logprobs_mode.startswith("processed"):
            scored = _processed(_adjusted(logits, counts, inputs, needs_adjusting), inputs)
        return score(scored, token_ids, top=max_logprobs, normalize=logprobs_mode.endswith("logprobs"))

    def no_scores() -> TokenScores:
        rows = logits.shape[0]
        return TokenScores(
            logprob=jnp.zeros(rows, jnp.float32),
            rank=jnp.zeros(rows, jnp.int32),
            top_ids=jnp.zeros((rows, max_logprobs), jnp.int32),
            top_logprobs=jnp.zeros((rows, max_logprobs), jnp.float32),
        )

    return SampleOutputs(token_ids, *lax.cond(inputs.any_logprobs, scores, no_scores))


def score(
    logits: Float[Array, "rows vocab"], targets: Int[Array, " rows"], *, top: int, normalize: bool = True
) -> TokenScores:
    """Log-probabilities and ranks of the targets, with the `top` likeliest tokens of each row.

    Without `normalize` the logits themselves stand in for log-probabilities.
    """
    logits = logits.astype(jnp.float32)
    target_logits = jnp.take_along_axis(logits, targets[:, None], axis=-1)  # [rows, 1]
    rank = 1 + (logits > target_logits).sum(axis=-1, dtype=jnp.int32)
    top_logits, top_ids = top_tokens(logits, top)
    shift = jax.nn.logsumexp(logits, axis=-1, keepdims=True) if normalize else jnp.float32(0)
    return TokenScores((target_logits - shift)[:, 0], rank, top_ids, top_logits - shift)


def _adjusted(logits: Array, counts: Array, inputs: SamplingInputs, needs_adjusting: Array) -> Array:
    """The logits in float32 after allowed tokens, bans, biases and penalties."""

    def adjust() -> Array:
        raw = logits.astype(jnp.float32)
        x = lax.cond(inputs.any_bitmask, lambda: apply_bitmask(raw, inputs.bitmask), lambda: raw)
        x = lax.cond(inputs.any_edits, lambda x: apply_edits(x, inputs.edit_ids, inputs.edit_values), lambda x: x, x)
        x = lax.cond(inputs.any_penalties, lambda x: _penalised(x, counts, inputs), lambda x: x, x)
        has_token = x.max(axis=-1, keepdims=True) > -jnp.inf
        return jnp.where(has_token, x, raw)

    adjusted: Array = lax.cond(needs_adjusting, adjust, lambda: logits.astype(jnp.float32))
    return adjusted


def _penalised(logits: Array, counts: Array, inputs: SamplingInputs) -> Array:
    return apply_penalties(
        logits, counts[inputs.slot], inputs.presence_penalty, inputs.frequency_penalty, inputs.repetition_penalty
    )


def _choose(logits: Array, inputs: SamplingInputs) -> Array:
    likeliest, maximum = argmax(logits)
    token_ids: Array = lax.cond(
        inputs.any_random,
        lambda: draw(logits, maximum, _draw_inputs(inputs), likeliest, _is_random(inputs)),
        lambda: likeliest,
    )
    return token_ids


def _processed(logits: Array, inputs: SamplingInputs) -> Array:
    """The logits of the distribution that random rows draw from: divided by temperature, -inf where cut."""

    def cut() -> Array:
        maximum = logits.max(axis=-1)
        draw_inputs, wanted = _draw_inputs(inputs), _is_random(inputs)
        floor = filter_floor(logits, maximum, draw_inputs, wanted)
        floor = nucleus_floor(logits, maximum, draw_inputs, floor, wanted)
        is_cut = wanted[:, None] & (logits < floor[:, None])
        return jnp.where(is_cut, -jnp.inf, logits / draw_inputs.temperature[:, None])

    processed: Array = lax.cond(inputs.any_random, cut, lambda: logits)
    return processed


def _is_random(inputs: SamplingInputs) -> Array:
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
