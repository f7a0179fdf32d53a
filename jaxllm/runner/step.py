"""The program of one step: embed, layers with attention and cache write, logits, sampling, next-token feed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding

from jaxllm.models.causal_lm import CausalLM
from jaxllm.models.inputs import AttentionInputs, KVCache, StepInputs
from jaxllm.runner.layout import FLAGS, Layout
from jaxllm.runner.packed_scores import PackedScores
from jaxllm.runner.penalty_counts import update_counts
from jaxllm.runner.sampler import LogprobsMode, SamplingInputs, TokenScores, sample, score

FROM_DEVICE = -1
"""Token id of a decode row whose token is the slot's last drawn one, which only the device knows."""

SCORED_ROWS = 32
"""Prompt positions whose logits exist at a time, which bounds the memory of prompt_logprobs."""


class DeviceState(NamedTuple):
    """What stays on the device between steps, always at the same address; donated to each step."""

    caches: tuple[KVCache, ...]
    """One per layer."""
    last_tokens: jax.Array
    """int32 [slots + 1], the last drawn token of each slot; the last entry takes writes that no one reads."""
    counts: jax.Array
    """int16 [slots + 1, vocab], twice the outputs' count plus one for tokens of the prompt."""
    logits: jax.Array
    """[most rows, vocab], what the last step's tokens were drawn from, for programs that choose otherwise (beams)."""
    drawn: PackedScores
    """[most rows], the last step's tokens; their scores are zeros if no row wanted logprobs."""
    prompt: PackedScores
    """[most tokens], what follows each token of the last step with chunks; zeros if no row wanted prompt_logprobs."""

    def results(self) -> dict[str, Any]:
        """What the last step has left for the host, by the names of `jaxllm.runner.results.Fetch`."""
        return {"tokens": self.drawn.tokens, "top": self.drawn.top, "prompt": self.prompt}


class Constraints(NamedTuple):
    """Per-step changes to logits, mostly absent: then a constant of the same shape stands in."""

    edit_ids: jax.Array
    """int32 [rows, edits]"""
    edit_values: jax.Array
    """float32 [rows, edits]"""
    bitmask: jax.Array
    """uint32 [rows, ceil(vocab / 32)]"""


@dataclass(frozen=True)
class StepProgram:
    """A step of one bucket as a pure function of (weights, state, buffer, constraints) that returns the new state."""

    graphdef: nnx.GraphDef[CausalLM]
    treedef: jax.tree_util.PyTreeDef
    layout: Layout
    max_logprobs: int
    logprobs_mode: LogprobsMode
    replicated: NamedSharding

    def __call__(
        self, weights: tuple[jax.Array, ...], state: DeviceState, buffer: jax.Array, constraints: Constraints
    ) -> DeviceState:
        model = nnx.merge(self.graphdef, jax.tree.unflatten(self.treedef, weights))
        fields = self.layout.unpack(buffer)
        inputs = StepInputs(_token_ids(fields, state.last_tokens), _attention_inputs(fields))
        hidden, caches = model(inputs, state.caches)
        logits = model.logits(hidden[fields["sample_tokens"]])  # [rows, vocab]
        logits = jax.lax.with_sharding_constraint(logits, self.replicated)
        sampled = sample(
            logits,
            state.counts,
            _sampling_inputs(fields, constraints),
            max_logprobs=self.max_logprobs,
            logprobs_mode=self.logprobs_mode,
        )
        prompt = state.prompt
        if self.layout.bucket.has_chunks:
            prompt = prompt.replace_rows(fields["targets"], self._score_prompt(model, hidden, fields))
        slots = fields["write_slot"]
        counted = slots < state.counts.shape[0] - 1
        return DeviceState(
            tuple(caches),
            state.last_tokens.at[slots].set(sampled.token_ids),
            update_counts(state.counts, slots, sampled.token_ids, counted),
            state.logits.at[: logits.shape[0]].set(logits),
            state.drawn.replace_rows(sampled.token_ids, TokenScores(*sampled[1:])),
            prompt,
        )

    def _score_prompt(self, model: CausalLM, hidden: jax.Array, fields: Mapping[str, jax.Array]) -> TokenScores:
        """Scores each token's target, a few rows of logits at a time; zeros when no request asks."""
        tokens = hidden.shape[0]
        rows = min(SCORED_ROWS, tokens)
        assert tokens % rows == 0, "buckets are multiples of SCORED_ROWS or smaller"

        def score_rows(ids: jax.Array) -> TokenScores:
            logits = jax.lax.with_sharding_constraint(model.logits(hidden[ids]), self.replicated)
            normalize = self.logprobs_mode.endswith("logprobs")
            return score(logits, jnp.maximum(fields["targets"][ids], 0), top=self.max_logprobs, normalize=normalize)

        def scores() -> TokenScores:
            shapes = jax.eval_shape(score_rows, jax.ShapeDtypeStruct((rows,), jnp.int32))
            empty = jax.tree.map(lambda s: jnp.zeros((tokens, *s.shape[1:]), s.dtype), shapes)

            def fill(index: jax.Array, filled: TokenScores) -> TokenScores:
                # Gathers and scatters: slices at a place that the loop counts would keep it out of the CUDA graph.
                ids = index * rows + jnp.arange(rows, dtype=jnp.int32)
                return jax.tree.map(lambda all_, some: all_.at[ids].set(some), filled, score_rows(ids))

            return jax.lax.fori_loop(0, tokens // rows, fill, empty)

        shapes = jax.eval_shape(scores)
        wanted = _flags(fields)["any_prompt_logprobs"]
        return jax.lax.cond(wanted, scores, lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))


def _flags(fields: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: (fields["flags"] >> bit) & 1 != 0 for bit, name in enumerate(FLAGS)}


def _token_ids(fields: Mapping[str, jax.Array], last_tokens: jax.Array) -> jax.Array:
    """Host-known ids, with the slots' last tokens where the host has none. Those are decode rows, which come first."""
    ids = fields["token_ids"]
    slots = fields["slot"]
    drawn = last_tokens[slots][: ids.shape[0]]
    drawn = jnp.pad(drawn, (0, ids.shape[0] - drawn.shape[0]))
    return jnp.where(ids == FROM_DEVICE, drawn, ids)


def _attention_inputs(fields: Mapping[str, jax.Array]) -> AttentionInputs:
    return AttentionInputs(**{name: fields[name] for name in AttentionInputs._fields})


def _sampling_inputs(fields: Mapping[str, jax.Array], constraints: Constraints) -> SamplingInputs:
    flags = _flags(fields)
    given = {**fields, **flags, **constraints._asdict(), "position": fields["draw_position"]}
    return SamplingInputs(**{name: given[name] for name in SamplingInputs._fields})
