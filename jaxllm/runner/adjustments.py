"""What requests change about the logits before a token is chosen: allowed tokens, bans and biases, penalties.

The order is that of vLLM: allowed tokens, then bans and biases, then repetition, frequency and presence penalties.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int16, UInt32


def apply_bitmask(
    logits: Float[Array, "rows vocab"], bitmask: UInt32[Array, "rows words"]
) -> Float[Array, "rows vocab"]:
    """Bans the tokens whose bit is not set; token i has bit i % 32 of word i // 32."""
    rows, vocab_size = logits.shape
    bits = (bitmask[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)[None, None, :]) & 1  # [rows, words, 32]
    is_allowed = bits.reshape(rows, -1)[:, :vocab_size] != 0
    return jnp.where(is_allowed, logits, -jnp.inf)


def apply_edits(
    logits: Float[Array, "rows vocab"], edit_ids: Int[Array, "rows edits"], edit_values: Float[Array, "rows edits"]
) -> Float[Array, "rows vocab"]:
    """Adds a value to each of the given tokens; an id outside the vocabulary (such as -1) is unused."""
    rows, vocab_size = logits.shape
    ids = jnp.where(edit_ids < 0, vocab_size, edit_ids)  # a negative index would count from the end
    return logits.at[jnp.arange(rows)[:, None], ids].add(edit_values, mode="drop")


def apply_penalties(
    logits: Float[Array, "rows vocab"],
    counts: Int16[Array, "rows vocab"],
    presence: Float[Array, " rows"],
    frequency: Float[Array, " rows"],
    repetition: Float[Array, " rows"],
) -> Float[Array, "rows vocab"]:
    """Penalises each row by the counts of its tokens, coded as in `penalty_counts`."""
    occurrences = (counts >> 1).astype(jnp.float32)
    repeated = jnp.where(logits > 0, logits / repetition[:, None], logits * repetition[:, None])
    logits = jnp.where(counts != 0, repeated, logits)
    return logits - frequency[:, None] * occurrences - jnp.where(occurrences > 0, presence[:, None], 0)
