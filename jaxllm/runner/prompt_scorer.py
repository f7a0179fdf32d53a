"""Scores the tokens of prompts for prompt_logprobs, in a program of its own behind the step's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int

from jaxllm.runner.executables import Compiled
from jaxllm.runner.packed_scores import PackedScores
from jaxllm.runner.sampler import LogprobsMode, TokenScores, score
from jaxllm.steps import NO_TARGET

SCORED_ROWS = 32
"""Positions whose logits exist at a time, which bounds the memory of prompt_logprobs."""
PROMPT_SCORES = "prompt_scores"
"""Name of the program."""

MakeLogits = Callable[[Float[Array, "rows width"]], Float[Array, "rows vocab"]]


class PromptScorer:
    """The program, and the scores that it leaves on the device, always at the same address."""

    def __init__(self, shapes: PackedScores) -> None:
        """Takes the memory."""
        self._scores: PackedScores = jax.tree.map(
            lambda one: jnp.zeros(one.shape, one.dtype, device=one.sharding), shapes
        )
        self._program: Compiled | None = None

    @property
    def scores(self) -> PackedScores:
        """Of the targets of the last step that was scored, [most tokens]."""
        return self._scores

    def start(self, programs: Mapping[str, Compiled], weights: Any, hidden: jax.Array, targets: jax.Array) -> None:
        """Takes the program and runs it once."""
        self._program = programs[PROMPT_SCORES]
        self.run(weights, hidden, targets)

    def run(self, weights: Any, hidden: jax.Array, targets: jax.Array) -> None:
        """Scores what follows each token of the step that left `hidden` and `targets`."""
        assert self._program is not None, "`start` comes first"
        self._scores = self._program(weights, self._scores, hidden, targets)

    def delete(self) -> None:
        """Frees the program and its memory."""
        for array in self._scores:
            array.delete()
        self._program = None


def score_prompt(
    make_logits: MakeLogits,
    scores: PackedScores,
    hidden: Float[Array, "tokens width"],
    targets: Int[Array, " tokens"],
    *,
    logprobs_mode: LogprobsMode,
) -> PackedScores:
    """`scores` with those of the targets, up to the last that is not NO_TARGET, a few rows of logits at a time."""
    tokens = hidden.shape[0]
    rows = min(SCORED_ROWS, tokens)
    assert tokens % rows == 0, "steps have a multiple of SCORED_ROWS tokens, or fewer"
    normalize = logprobs_mode.endswith("logprobs")

    def fill(index: jax.Array, filled: PackedScores) -> PackedScores:
        wanted = jax.lax.dynamic_slice_in_dim(targets, index * rows, rows)
        some = jax.lax.dynamic_slice_in_dim(hidden, index * rows, rows)
        kept = jnp.maximum(wanted, 0)
        found = score(make_logits(some), kept, top=scores.top.shape[2], normalize=normalize)
        return filled.replace_rows(kept, TokenScores(*found), start=index * rows)

    last = jnp.max(jnp.where(targets == NO_TARGET, 0, jnp.arange(1, tokens + 1, dtype=jnp.int32)))
    return jax.lax.fori_loop(0, (last + rows - 1) // rows, fill, scores)


def lower_prompt_scores(
    weights: Any,
    make_logits: Callable[[Any, jax.Array], jax.Array],
    *,
    scores: PackedScores,
    hidden: Any,
    targets: Any,
    logprobs_mode: LogprobsMode,
    everywhere: NamedSharding,
) -> Any:
    """Traces and lowers the program; `make_logits` takes the weights and hidden states."""

    def prompt_scores(weights: Any, scores: PackedScores, hidden: jax.Array, targets: jax.Array) -> PackedScores:
        def logits(some: jax.Array) -> jax.Array:
            return jax.lax.with_sharding_constraint(make_logits(weights, some), everywhere)

        return score_prompt(logits, scores, hidden, targets, logprobs_mode=logprobs_mode)

    program = jax.jit(prompt_scores, donate_argnums=1, out_shardings=everywhere)
    return program.lower(weights, scores, hidden, targets)
