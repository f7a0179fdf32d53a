from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.runner.penalty_counts import MAX_OCCURRENCES, reset_counts, update_counts

reset = jax.jit(reset_counts)
PADDING = -1


def chunk(*ids: int) -> jax.Array:
    return jnp.asarray([*ids, *[PADDING] * (6 - len(ids))], jnp.int32)


def test_reset_clears_the_row_and_codes_prompt_and_output_tokens():
    counts = jnp.full((3, 10), 5, jnp.int16)
    counts = reset(counts, jnp.int32(1), chunk(4, 9, 4, 0), chunk(9, 9, 2), jnp.array(True))
    assert counts[1].tolist() == [1, 0, 2, 0, 1, 0, 0, 0, 0, 5]
    assert counts[0].tolist() == counts[2].tolist() == [5] * 10


def test_later_chunks_add_to_the_row():
    counts = jnp.zeros((2, 10), jnp.int16)
    counts = reset(counts, jnp.int32(0), chunk(1, 2), chunk(), jnp.array(True))
    counts = reset(counts, jnp.int32(0), chunk(2, 3), chunk(2), jnp.array(False))
    counts = reset(counts, jnp.int32(0), chunk(), chunk(2, 7), jnp.array(False))
    assert counts[0].tolist() == [0, 1, 5, 1, 0, 0, 0, 2, 0, 0]


def test_ids_past_the_vocabulary_are_padding_too():
    counts = reset(jnp.zeros((2, 10), jnp.int16), jnp.int32(0), chunk(10, 99), chunk(10, 99), jnp.array(True))
    assert not np.any(counts)


def test_update_counts_valid_rows_only():
    counts = jnp.zeros((4, 10), jnp.int16).at[2, 3].set(1)
    slots, tokens = jnp.array([2, 0, 3, 3]), jnp.array([3, 9, 5, 5])
    counts = update_counts(counts, slots, tokens, jnp.array([True, True, False, False]))
    assert counts[2, 3] == 3
    assert counts[0, 9] == 2
    assert counts.sum() == 5


def test_counts_stop_growing_before_they_wrap():
    full = 2 * MAX_OCCURRENCES + 1
    counts = jnp.zeros((2, 10), jnp.int16).at[0, 3].set(full)
    counts = update_counts(counts, jnp.array([0]), jnp.array([3]), jnp.array([True]))
    counts = reset(counts, jnp.int32(0), chunk(), chunk(3, 3), jnp.array(False))
    assert counts[0, 3] == full
