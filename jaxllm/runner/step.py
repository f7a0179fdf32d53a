"""The program of one step: embed, layers with attention and cache write, logits, likeliest tokens, next-token feed.

It has no conditions and no loops, so that on a GPU it is one CUDA graph of the plainest kind. What few requests ask
for runs behind it, in programs of its own on what the step leaves: see `token_sampler` and `prompt_scorer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding

from jaxllm.models.causal_lm import CausalLM
from jaxllm.models.inputs import AttentionInputs, KVCache, StepInputs
from jaxllm.runner.layout import Layout
from jaxllm.runner.sampling_rows import pack_rows
from jaxllm.runner.vocabulary import argmax
from jaxllm.steps import NO_TARGET

FROM_DEVICE = -1
"""Token id of a decode row whose token is the slot's last drawn one, which only the device knows."""


class DeviceState(NamedTuple):
    """What stays on the device between steps, always at the same address; donated to each step."""

    caches: tuple[KVCache, ...]
    """One per layer."""
    last_tokens: jax.Array
    """int32 [slots + 1], the last drawn token of each slot; the last entry takes writes that no one reads."""
    tokens: jax.Array
    """int32 [3, most rows], the last step's tokens, and their scores if the sampler ran: see `PackedScores`."""
    logits: jax.Array
    """[most rows, vocab] of the last step, for programs that choose otherwise than by the largest."""
    rows: jax.Array
    """int32 [fields, most rows], how the last step's rows want their tokens drawn: see `sampling_rows`."""
    hidden: jax.Array
    """[most tokens, width], the last states of the last step with chunks: what logits are made of."""
    targets: jax.Array
    """int32 [most tokens], what follows each of them; NO_TARGET where no one asks for its score."""


@dataclass(frozen=True)
class StepProgram:
    """A step of one bucket as a pure function of (weights, state, buffer) that returns the new state."""

    graphdef: nnx.GraphDef[CausalLM]
    treedef: jax.tree_util.PyTreeDef
    layout: Layout
    replicated: NamedSharding

    def __call__(self, weights: tuple[jax.Array, ...], state: DeviceState, buffer: jax.Array) -> DeviceState:
        model = merge(self.graphdef, self.treedef, weights)
        fields = self.layout.unpack(buffer)
        inputs = StepInputs(_token_ids(fields, state.last_tokens), _attention_inputs(fields))
        hidden, caches = model(inputs, state.caches)
        logits = model.logits(hidden[fields["sample_tokens"]])  # [rows, vocab]
        logits = jax.lax.with_sharding_constraint(logits, self.replicated)
        rows, (likeliest, _) = logits.shape[0], argmax(logits)
        state = state._replace(
            caches=tuple(caches),
            last_tokens=state.last_tokens.at[fields["write_slot"]].set(likeliest),
            tokens=state.tokens.at[0, :rows].set(likeliest),
            logits=state.logits.at[:rows].set(logits),
            rows=pack_rows(fields, most=state.rows.shape[1], unused_slot=state.last_tokens.shape[0] - 1),
        )
        if not self.layout.bucket.has_chunks:
            return state
        tokens = hidden.shape[0]
        no_targets = jnp.full_like(state.targets, NO_TARGET)
        return state._replace(
            hidden=state.hidden.at[:tokens].set(jax.lax.with_sharding_constraint(hidden, self.replicated)),
            targets=no_targets.at[:tokens].set(fields["targets"]),
        )


def merge(
    graphdef: nnx.GraphDef[CausalLM], treedef: jax.tree_util.PyTreeDef, weights: tuple[jax.Array, ...]
) -> CausalLM:
    """The model of these weights, for a program that is being traced."""
    model: CausalLM = nnx.merge(graphdef, jax.tree.unflatten(treedef, weights))
    return model


def _token_ids(fields: Mapping[str, jax.Array], last_tokens: jax.Array) -> jax.Array:
    """Host-known ids, with the slots' last tokens where the host has none. Those are decode rows, which come first."""
    ids = fields["token_ids"]
    slots = fields["slot"]
    drawn = last_tokens[slots][: ids.shape[0]]
    drawn = jnp.pad(drawn, (0, ids.shape[0] - drawn.shape[0]))
    return jnp.where(ids == FROM_DEVICE, drawn, ids)


def _attention_inputs(fields: Mapping[str, jax.Array]) -> AttentionInputs:
    return AttentionInputs(**{name: fields[name] for name in AttentionInputs._fields})
