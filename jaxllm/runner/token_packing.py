"""Tokens, pages and rows of a step, into the fields of its buffer: NumPy only, whole columns where rows are many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxllm.pallas_kernels.paged_attention.tiles import TILE_TOKENS
from jaxllm.runner.step import FROM_DEVICE
from jaxllm.steps import NO_PAGE, NO_TARGET, ScheduledRequest

Views = Mapping[str, np.ndarray]


def pack_tokens(requests: Sequence[ScheduledRequest], views: Views, page_size: int) -> None:
    """Fills everything that describes tokens, pages and rows, in a buffer of zeros."""
    views["targets"][:] = NO_TARGET
    views["context_lens"][:] = 1
    page_tables = views["page_tables"]
    for row, request in enumerate(requests):
        page_tables[row, : len(request.page_ids)] = request.page_ids
    num_decodes = next((row for row, request in enumerate(requests) if request.num_tokens > 1), len(requests))
    views["num_decodes"][...] = num_decodes
    _pack_decodes(requests[:num_decodes], views, page_size)
    _pack_chunks(requests[num_decodes:], views, page_size, num_decodes)


def _pack_decodes(requests: Sequence[ScheduledRequest], views: Views, page_size: int) -> None:
    """The rows of one token, which come first: row i is token i."""
    count = len(requests)
    rows = np.arange(count, dtype=np.int32)
    positions = np.array([request.num_computed_tokens for request in requests], np.int32)
    views["positions"][:count] = positions
    views["context_lens"][:count] = positions + 1
    views["draw_position"][:count] = positions + 1
    views["sample_tokens"][:count] = rows
    page_ids = views["page_tables"][rows, positions // page_size]
    views["slot_mapping"][:count] = page_ids * page_size + positions % page_size
    views["token_ids"][:count] = [FROM_DEVICE if r.token_ids is None else r.token_ids[0] for r in requests]
    for row, request in enumerate(requests):
        if request.prompt_logprob_targets is not None:
            views["targets"][row] = request.prompt_logprob_targets[0]


def _pack_chunks(requests: Sequence[ScheduledRequest], views: Views, page_size: int, num_decodes: int) -> None:
    """The other rows, whose tokens follow those of the decodes; they are cut into tiles."""
    token = num_decodes
    tiles: list[tuple[int, int, int]] = []
    for row, request in enumerate(requests, num_decodes):
        count, computed = request.num_tokens, request.num_computed_tokens
        end = token + count
        positions = np.arange(computed, computed + count, dtype=np.int32)
        views["context_lens"][row] = views["draw_position"][row] = computed + count
        views["sample_tokens"][row] = end - 1
        views["positions"][token:end] = positions
        views["slot_mapping"][token:end] = request.page_ids[positions // page_size] * page_size + positions % page_size
        views["token_ids"][token:end] = FROM_DEVICE if request.token_ids is None else request.token_ids
        if request.prompt_logprob_targets is not None:
            views["targets"][token:end] = request.prompt_logprob_targets
        tiles.extend((row, token + at, min(TILE_TOKENS, count - at)) for at in range(0, count, TILE_TOKENS))
        token = end
    views["num_tiles"][...] = len(tiles)
    if tiles:
        views["tiles"][: len(tiles)] = tiles


assert NO_PAGE == 0, "zeroed page tables point at the page that no request owns"
