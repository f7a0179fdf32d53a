"""The arrays that one step hands to a model, and the words for their dimensions.

tokens    flat token axis of the step: first one token per decode request, then the prompt chunks, then padding
requests  rows of the step, in the same order; padding rows own page 0 only
pages     pages in the pool, or entries of one request's page table
tiles     pieces of prompt chunks, of at most `paged_attention.tiles.TILE_TOKENS` tokens
kv_heads, group, head_dim   query heads are ordered [kv_heads, group]
hidden, vocab               width of the residual stream, number of token ids
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class AttentionInputs(NamedTuple):
    """Where the step's tokens lie in the paged cache. Page 0 takes the writes of padding tokens."""

    positions: Int[Array, " tokens"]
    """Position of each token in its sequence."""
    slot_mapping: Int[Array, " tokens"]
    """page id * page size + offset in the page: where the token's key and value go."""
    page_tables: Int[Array, "requests pages"]
    context_lens: Int[Array, " requests"]
    """Tokens in the cache once this step's tokens are written."""
    num_decodes: Int[Array, ""]
    """Requests with one token: their tokens and rows come first, token i belongs to row i."""
    tiles: Int[Array, "tiles 3"]
    """(row, first token, number of tokens) in ascending order of first token."""
    num_tiles: Int[Array, ""]


class KVCache(NamedTuple):
    """Keys and values of one layer, donated to the step and updated in place."""

    keys: Float[Array, "pages page_size kv_heads head_dim"]
    values: Float[Array, "pages page_size kv_heads head_dim"]


class StepInputs(NamedTuple):
    """What a model's forward pass reads."""

    token_ids: Int[Array, " tokens"]
    attention: AttentionInputs
