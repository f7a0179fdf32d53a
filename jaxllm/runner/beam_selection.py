"""Chooses the beams that live on, for all beam searches of a step at once, in a program after the step's.

A group is the live beams of one search: neighbouring rows of the step, best first. Its results go to `width` places of
their own, also best first, which may be more than its rows: the single row of a prompt makes `width` beams.

    rows    | a0 | b0 b1 | (greedy) |        group a has computed its prompt, group b has two live beams
    places  | a a a a | b b b |              widths 4 and 3
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxllm.runner.adjustments import apply_bitmask
from jaxllm.runner.vocabulary import top_tokens


class BeamInputs(NamedTuple):
    """What the rows of beam searches bring, and a scalar that says whether some of it matters."""

    width: Int[Array, " rows"]
    """Beams that the row's search keeps; 0 for rows that are no beams."""
    place: Int[Array, " rows"]
    """First place of the row's group; different groups have different ones."""
    score: Float[Array, " rows"]
    """Log-probability of what the beam has generated so far."""
    temperature: Float[Array, " rows"]
    """Divides the logits; above 0."""
    end_ids: Int[Array, "rows ends"]
    """Tokens that end a beam, which therefore compete for no place; -1 is unused."""
    bitmask: UInt32[Array, "rows words"]
    """Token i may be a candidate if bit i % 32 of word i // 32 is set."""
    any_bitmask: Bool[Array, ""]
    """Some row has a bit cleared. False: bitmask is ignored."""


class Candidates(NamedTuple):
    """The likeliest tokens of each row, of which a search of width w considers the first 2 w."""

    ids: Int[Array, "rows candidates"]
    """Likeliest first, equals by lowest id."""
    logprobs: Float[Array, "rows candidates"]
    """Of the distribution over the whole vocabulary; -inf where the row may not have so many tokens."""
    ranks: Int[Array, "rows candidates"]
    """1-based rank in the whole vocabulary."""


class BeamOutputs(NamedTuple):
    """The chosen beams by place, and what the rows proposed."""

    parents: Int[Array, " places"]
    """Row of the step that the beam continues."""
    token_ids: Int[Array, " places"]
    scores: Float[Array, " places"]
    """Log-probability of what the beam has generated; -inf in places that stayed empty."""
    candidates: Candidates


class PackedBeams(NamedTuple):
    """The same as two arrays, floats as their bits: each array is a transfer to the host."""

    chosen: Int[Array, "3 places"]
    """Parents, token ids, scores."""
    candidates: Int[Array, "3 rows candidates"]
    """Ids, logprobs, ranks."""


def pack_outputs(outputs: BeamOutputs) -> PackedBeams:
    """Traced."""
    ids, logprobs, ranks = outputs.candidates
    return PackedBeams(
        jnp.stack([outputs.parents, outputs.token_ids, lax.bitcast_convert_type(outputs.scores, jnp.int32)]),
        jnp.stack([ids, lax.bitcast_convert_type(logprobs, jnp.int32), ranks]),
    )


def unpack_outputs(packed: PackedBeams) -> BeamOutputs:
    """NumPy arrays; waits for the device."""
    chosen, candidates = np.asarray(packed.chosen), np.asarray(packed.candidates)
    return BeamOutputs(
        chosen[0],
        chosen[1],
        chosen[2].view(np.float32),
        Candidates(candidates[0], candidates[1].view(np.float32), candidates[2]),
    )


def select_beams(logits: Float[Array, "rows vocab"], inputs: BeamInputs, *, num_candidates: int) -> BeamOutputs:
    """The best continuations of each group, as many as its width, and at most one place a row in all.

    Equal scores go by row, then by token id. Tokens that end a beam are among the candidates, never among the chosen.
    """
    return _choose(_propose(logits, inputs, num_candidates), inputs)


def _propose(logits: Array, inputs: BeamInputs, count: int) -> Candidates:
    raw = logits.astype(jnp.float32)
    allowed = lax.cond(inputs.any_bitmask, lambda: apply_bitmask(raw, inputs.bitmask), lambda: raw)
    best, ids = top_tokens(allowed, count)
    temperature = inputs.temperature[:, None]
    logprobs = best / temperature - jax.nn.logsumexp(raw / temperature, axis=-1, keepdims=True)

    def count_larger() -> Array:
        return (raw[:, None, :] > best[:, :, None]).sum(axis=-1, dtype=jnp.int32) + 1

    ranks = lax.cond(inputs.any_bitmask, count_larger, lambda: lax.broadcasted_iota(jnp.int32, ids.shape, 1) + 1)
    return Candidates(ids, logprobs, ranks)


def _choose(candidates: Candidates, inputs: BeamInputs) -> BeamOutputs:
    rows, count = candidates.ids.shape
    is_proposed = lax.broadcasted_iota(jnp.int32, (rows, count), 1) < 2 * inputs.width[:, None]
    is_end = (candidates.ids[:, :, None] == inputs.end_ids[:, None, :]).any(axis=-1)
    scores = jnp.where(is_proposed & ~is_end, inputs.score[:, None] + candidates.logprobs, -jnp.inf)
    # Written so that NaN is no candidate.
    scores = jnp.where(scores > -jnp.inf, scores, -jnp.inf)
    rank = _rank_in_group(scores, inputs.place)
    is_chosen = (scores > -jnp.inf) & (rank < inputs.width[:, None])
    place = jnp.where(is_chosen, inputs.place[:, None] + rank, rows).reshape(-1)  # `rows` is outside: dropped
    chosen = jnp.full(rows, -1, jnp.int32).at[place].set(jnp.arange(rows * count, dtype=jnp.int32), mode="drop")
    index = jnp.maximum(chosen, 0)
    return BeamOutputs(
        parents=index // count,
        token_ids=candidates.ids.reshape(-1)[index],
        scores=jnp.where(chosen >= 0, scores.reshape(-1)[index], -jnp.inf),
        candidates=candidates,
    )


def _rank_in_group(scores: Float[Array, "rows candidates"], group: Int[Array, " rows"]) -> Array:
    """How many candidates of its group come before each. One reduction over all pairs, which XLA never stores."""
    flat = scores.reshape(-1)
    groups = jnp.repeat(group, scores.shape[1], total_repeat_length=flat.size)
    order = jnp.arange(flat.size, dtype=jnp.int32)
    is_larger = flat[None, :] > flat[:, None]
    is_earlier_equal = (flat[None, :] == flat[:, None]) & (order[None, :] < order[:, None])
    comes_before = (groups[None, :] == groups[:, None]) & (is_larger | is_earlier_equal)
    return comes_before.sum(axis=-1, dtype=jnp.int32).reshape(scores.shape)
