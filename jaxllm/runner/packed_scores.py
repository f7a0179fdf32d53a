"""The scores of a step as two arrays, so that little is to be fetched."""

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

    def replace_rows(
        self, token_ids: Int[Array, " rows"], scores: TokenScores, start: int | jax.Array = 0
    ) -> PackedScores:
        """These, with the rows from `start` on replaced."""
        tokens = jnp.stack([token_ids, scores.rank, _bits(scores.logprob)])
        top = jnp.stack([scores.top_ids, _bits(scores.top_logprobs)])
        return PackedScores(
            lax.dynamic_update_slice_in_dim(self.tokens, tokens, start, axis=1),
            lax.dynamic_update_slice_in_dim(self.top, top, start, axis=1),
        )


def unpack_scores(tokens: jax.Array, top: jax.Array) -> TokenScores:
    """The scores as NumPy arrays; waits for the device."""
    host_tokens, host_top = np.asarray(tokens), np.asarray(top)
    return TokenScores(host_tokens[2].view(np.float32), host_tokens[1], host_top[0], host_top[1].view(np.float32))


def _bits(values: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(values, jnp.int32)
