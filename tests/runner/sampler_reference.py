"""Builders of sampler inputs, and the sampler's semantics in numpy float64 with a plain sort."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.runner.sampler import LogprobsMode, SampleOutputs, SamplingInputs, sample

MAX_EDITS = 8


@dataclass(frozen=True, kw_only=True)
class Params:
    """Sampling parameters of one row, as the sampler sees them."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    seed: int = 0
    position: int = 0
    slot: int = 0
    edits: dict[int, float] = field(default_factory=dict)
    allowed: frozenset[int] | None = None


def make_inputs(rows: list[Params], vocab_size: int, *, any_logprobs: bool = False) -> SamplingInputs:
    edit_ids = np.full((len(rows), MAX_EDITS), -1, np.int32)
    edit_values = np.zeros((len(rows), MAX_EDITS), np.float32)
    bitmask = np.full((len(rows), -(-vocab_size // 32)), 0xFFFFFFFF, np.uint32)
    for index, row in enumerate(rows):
        edit_ids[index, : len(row.edits)] = list(row.edits)
        edit_values[index, : len(row.edits)] = list(row.edits.values())
        if row.allowed is not None:
            bitmask[index] = 0
            for token in row.allowed:
                bitmask[index, token // 32] |= np.uint32(1 << (token % 32))
    return SamplingInputs(
        temperature=jnp.asarray([row.temperature for row in rows], jnp.float32),
        top_k=jnp.asarray([row.top_k for row in rows], jnp.int32),
        top_p=jnp.asarray([row.top_p for row in rows], jnp.float32),
        min_p=jnp.asarray([row.min_p for row in rows], jnp.float32),
        presence_penalty=jnp.asarray([row.presence for row in rows], jnp.float32),
        frequency_penalty=jnp.asarray([row.frequency for row in rows], jnp.float32),
        repetition_penalty=jnp.asarray([row.repetition for row in rows], jnp.float32),
        seed_low=jnp.asarray([row.seed & 0xFFFFFFFF for row in rows], jnp.uint32),
        seed_high=jnp.asarray([row.seed >> 32 for row in rows], jnp.uint32),
        position=jnp.asarray([row.position for row in rows], jnp.int32),
        slot=jnp.asarray([row.slot for row in rows], jnp.int32),
        any_random=jnp.asarray(any(row.temperature > 0 for row in rows)),
        any_penalties=jnp.asarray(any((row.presence, row.frequency, row.repetition) != (0, 0, 1) for row in rows)),
        any_edits=jnp.asarray(any(row.edits for row in rows)),
        any_bitmask=jnp.asarray(any(row.allowed is not None for row in rows)),
        any_logprobs=jnp.asarray(any_logprobs),
        edit_ids=jnp.asarray(edit_ids),
        edit_values=jnp.asarray(edit_values),
        bitmask=jnp.asarray(bitmask),
    )


@cache
def compiled_sample(max_logprobs: int, logprobs_mode: LogprobsMode):
    return jax.jit(partial(sample, max_logprobs=max_logprobs, logprobs_mode=logprobs_mode))


def run_sample(
    logits,
    rows: list[Params],
    *,
    counts=None,
    any_logprobs: bool = False,
    max_logprobs: int = 0,
    logprobs_mode: LogprobsMode = "raw_logprobs",
) -> SampleOutputs:
    """Samples one token a row; `logits` [vocab] or [rows, vocab]."""
    logits = jnp.asarray(logits)
    if logits.ndim == 1:
        logits = jnp.broadcast_to(logits, (len(rows), logits.shape[0]))
    if counts is None:
        counts = jnp.zeros((2, logits.shape[1]), jnp.int16)
    inputs = make_inputs(rows, logits.shape[1], any_logprobs=any_logprobs)
    outputs = compiled_sample(max_logprobs, logprobs_mode)(logits, jnp.asarray(counts), inputs)
    arrays: list[Any] = [np.asarray(output) for output in outputs]
    return SampleOutputs(*arrays)


def adjusted_logits(logits, params: Params, counts=None) -> Any:
    """Logits [vocab] after allowed tokens, edits and penalties."""
    logits = np.asarray(logits, np.float64).copy()
    if params.allowed is not None:
        logits[[token for token in range(logits.size) if token not in params.allowed]] = -np.inf
    for token, value in params.edits.items():
        logits[token] += value
    if counts is not None:
        outputs, seen = counts // 2, counts != 0
        repeated = np.where(logits > 0, logits / params.repetition, logits * params.repetition)
        logits = np.where(seen, repeated, logits)
        logits = logits - params.frequency * outputs - params.presence * (outputs > 0)
    return logits


def softmax(logits) -> Any:
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def probabilities(logits, params: Params, counts=None) -> Any:
    """The distribution [vocab] that a random row draws from: sorts, where the sampler doesn't."""
    logits = adjusted_logits(logits, params, counts) / params.temperature
    chances = softmax(logits)
    keep = chances >= params.min_p * chances.max()
    if 0 < params.top_k < logits.size:
        keep &= logits >= np.sort(logits)[-params.top_k]
    chances = np.where(keep, chances, 0) / chances[keep].sum()
    if params.top_p < 1:
        mass_above = np.array([chances[logits > value].sum() for value in logits])
        chances = np.where(mass_above < params.top_p, chances, 0)
    return chances / chances.sum()
