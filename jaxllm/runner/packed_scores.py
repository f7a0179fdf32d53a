"""The scores of a step as two arrays, so that the program has few outputs.

Every output lies at a new address in each step, and whatever writes to one must be told in a CUDA graph.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from jaxllm.runner.sampler import TokenScores


class PackedScores(NamedTuple):
    """Tokens and their `TokenScores`; floats as their bits."""

    tokens: Int[Array, "3 rows"]
    """Token id, rank, logprob."""
    top: Int[Array, "2 rows top"]
    """The likeliest tokens, their logprobs."""


def pack_scores(token_ids: Int[Array, " rows"], scores: TokenScores) -> PackedScores:
    """Both arrays, traced."""
    return PackedScores(
        jnp.stack([token_ids, scores.rank, _bits(scores.logprob)]),
        jnp.stack([scores.top_ids, _bits(scores.top_logprobs)]),
    )


def unpack_scores(packed: PackedScores) -> TokenScores:
    """The scores as NumPy arrays; waits for the device."""
    tokens, top = np.asarray(packed.tokens), np.asarray(packed.top)
    floats = np.float32
    return TokenScores(tokens[2].view(floats), tokens[1], top[0], top[1].view(floats))


def _bits(values: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(values, jnp.int32)
