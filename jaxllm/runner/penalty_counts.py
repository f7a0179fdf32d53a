"""Which tokens a request has seen, for its penalties: int16 [slots, vocab] on the device.

A count is twice the number of times that the request generated the token, plus one if its prompt has the token.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Int16

COUNT_STEP = 2
"""What one generated token adds to its count."""
MAX_OCCURRENCES = 16383
"""Where a count stops growing: one more would wrap int16."""


def update_counts(
    counts: Int16[Array, "slots vocab"],
    slot: Int[Array, " rows"],
    token_ids: Int[Array, " rows"],
    valid: Bool[Array, " rows"],
) -> Int16[Array, "slots vocab"]:
    """Counts one generated token a row where `valid`; in place if `counts` is donated.

    Valid rows must have different slots.
    """
    has_room = (counts[slot, token_ids] >> 1) < MAX_OCCURRENCES
    step = jnp.where(valid & has_room, COUNT_STEP, 0).astype(counts.dtype)
    return counts.at[slot, token_ids].add(step)


def reset_counts(
    counts: Int16[Array, "slots vocab"],
    slot: Int[Array, ""],
    prompt_ids: Int[Array, " prompt_chunk"],
    output_ids: Int[Array, " output_chunk"],
    first: Bool[Array, ""],
) -> Int16[Array, "slots vocab"]:
    """Adds a chunk of prompt tokens and one of generated tokens to a slot's row, which `first` clears before.

    Ids outside the vocabulary (such as -1) are padding. A long prompt takes several calls, the first with `first`.
    """
    vocab_size = counts.shape[-1]
    row = jnp.where(first, 0, counts[slot].astype(jnp.int32))
    prompt_ids = jnp.where(prompt_ids < 0, vocab_size, prompt_ids)
    output_ids = jnp.where(output_ids < 0, vocab_size, output_ids)
    row = row.at[output_ids].add(COUNT_STEP, mode="drop")
    in_prompt = (row & 1).at[prompt_ids].set(1, mode="drop")
    row = COUNT_STEP * jnp.minimum(row >> 1, MAX_OCCURRENCES) + in_prompt
    return counts.at[slot].set(row.astype(counts.dtype))
