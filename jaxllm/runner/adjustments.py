"""What requests change about the logits before a token is chosen: allowed tokens, bans and biases, penalties.

The order is that of vLLM: allowed tokens, then bans and biases, then repetition, frequency and presence penalties.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

COUNT_STEP = 2
"""One generated token adds this to its penalty count: bit 0 says that the token is in the prompt."""
COUNT_LIMIT = 32767 - COUNT_STEP
"""A count stops growing above this, so that int16 never wraps: at 16383 occurrences."""


def apply_bitmask(logits: jax.Array, bitmask: jax.Array) -> jax.Array:
    """Bans the tokens whose bit is not set: float32 [rows, vocab], uint32 [rows, ceil(vocab / 32)], lowest bit first."""
    rows, vocab_size = logits.shape
    bits = (bitmask[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1  # [rows, words, 32]
    is_allowed = bits.reshape(rows, -1)[:, :vocab_size] != 0
    return jnp.where(is_allowed, logits, -jnp.inf)


def apply_edits(logits: jax.Array, edit_ids: jax.Array, edit_values: jax.Array) -> jax.Array:
    """Adds [rows, edits] values to float32 [rows, vocab]; an id outside the vocabulary (such as -1) is unused."""
    rows, vocab_size = logits.shape
    ids = jnp.where(edit_ids < 0, vocab_size, edit_ids)  # a negative index would count from the end
    return logits.at[jnp.arange(rows)[:, None], ids].add(edit_values, mode="drop")


def apply_penalties(
    logits: jax.Array, counts: jax.Array, presence: jax.Array, frequency: jax.Array, repetition: jax.Array
) -> jax.Array:
    """Penalises float32 [rows, vocab] by the int16 [rows, vocab] counts of its rows; penalties are [rows]."""
    occurrences = (counts >> 1).astype(jnp.float32)
    repeated = jnp.where(logits > 0, logits / repetition[:, None], logits * repetition[:, None])
    logits = jnp.where(counts != 0, repeated, logits)
    return logits - frequency[:, None] * occurrences - jnp.where(occurrences > 0, presence[:, None], 0)


def update_counts(counts: jax.Array, slot: jax.Array, token_ids: jax.Array, valid: jax.Array) -> jax.Array:
    """Counts one generated token a row where `valid`; in place if `counts` [slots, vocab] is donated.

    Valid rows must have different slots.
    """
    has_room = counts[slot, token_ids] <= COUNT_LIMIT
    step = jnp.where(valid & has_room, COUNT_STEP, 0).astype(counts.dtype)
    return counts.at[slot, token_ids].add(step)


def reset_counts(
    counts: jax.Array, slot: jax.Array, prompt_ids: jax.Array, output_ids: jax.Array, first: jax.Array
) -> jax.Array:
    """Adds a chunk of prompt and of generated tokens to the row `slot` of [slots, vocab], cleared before if `first`.

    Ids outside the vocabulary (such as -1) are padding. Takes long prompts in several calls.
    """
    vocab_size = counts.shape[-1]
    row = jnp.where(first, 0, counts[slot].astype(jnp.int32))
    prompt_ids = jnp.where(prompt_ids < 0, vocab_size, prompt_ids)
    output_ids = jnp.where(output_ids < 0, vocab_size, output_ids)
    row = row.at[output_ids].add(COUNT_STEP, mode="drop")
    in_prompt = (row & 1).at[prompt_ids].set(1, mode="drop")
    row = jnp.minimum(row >> 1, 32767 >> 1) * COUNT_STEP + in_prompt
    return counts.at[slot].set(row.astype(counts.dtype))
