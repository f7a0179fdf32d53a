"""Random inputs that every backend of paged attention is checked with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxllm.pallas_kernels.paged_attention.api import AttentionSpec
from jaxllm.pallas_kernels.paged_attention.heads import HeadInputs
from jaxllm.pallas_kernels.paged_attention.tiles import TILE_TOKENS

_PLAIN = AttentionSpec(scale=0.125)


class CaseInputs(NamedTuple):
    """NumPy twin of `jaxllm.models.inputs.AttentionInputs`."""

    positions: np.ndarray
    slot_mapping: np.ndarray
    page_tables: np.ndarray
    context_lens: np.ndarray
    num_decodes: np.int32
    tiles: np.ndarray
    num_tiles: np.int32


@dataclass(frozen=True, kw_only=True)
class Case:
    """One mix of requests. `decodes` are context lengths, `chunks` are (tokens already cached, new tokens)."""

    decodes: tuple[int, ...] = ()
    chunks: tuple[tuple[int, int], ...] = ()
    kv_heads: int = 2
    group: int = 2
    head_dim: int = 64
    page_size: int = 16
    padding_tokens: int = 0
    padding_rows: int = 0
    has_norm: bool = False
    has_rope: bool = False
    has_sinks: bool = False
    spec: AttentionSpec = _PLAIN

    @property
    def num_tokens(self) -> int:
        return len(self.decodes) + sum(new for _, new in self.chunks) + self.padding_tokens


class CaseArrays(NamedTuple):
    """Arguments of the op, float32. Pages that no request owns hold large values, so that reading them shows."""

    qkv: np.ndarray
    heads: HeadInputs
    keys: np.ndarray
    values: np.ndarray
    inputs: CaseInputs


CASES = {
    "one_token": Case(decodes=(1,)),
    "one_decode_with_padding_row": Case(decodes=(7,), padding_tokens=1, padding_rows=1),
    "decodes_of_many_lengths": Case(decodes=(1, 16, 17, 255, 256, 257, 600)),
    "more_decodes_than_a_group": Case(decodes=tuple(range(3, 80, 2))),
    "one_prompt": Case(chunks=((0, 37),)),
    "prompt_longer_than_a_tile": Case(chunks=((0, 300),)),
    "chunk_after_cached_prefix": Case(chunks=((130, 70),)),
    "one_token_chunks": Case(chunks=((0, 1), (40, 1), (5, 2))),
    "mixed": Case(decodes=(3, 300, 31), chunks=((0, 20), (64, 129), (300, 5)), padding_tokens=9, padding_rows=2),
    "decode_window": Case(decodes=(5, 8, 9, 300), spec=AttentionSpec(scale=0.2, window=8)),
    "chunk_window": Case(chunks=((0, 40), (250, 150)), spec=AttentionSpec(scale=0.2, window=33)),
    "soft_cap": Case(decodes=(20,), chunks=((3, 20),), spec=AttentionSpec(scale=1.0, soft_cap=5.0)),
    "rope": Case(decodes=(20, 70), chunks=((3, 20), (0, 150)), has_rope=True),
    "rope_of_decodes": Case(decodes=(1, 20, 300), padding_tokens=1, padding_rows=1, has_rope=True),
    "norm_and_rope": Case(decodes=(20, 70), chunks=((3, 20),), padding_tokens=3, has_norm=True, has_rope=True),
    "norm_and_rope_of_decodes": Case(decodes=(1, 20, 300), has_norm=True, has_rope=True, group=4, head_dim=128),
    "sinks": Case(decodes=(3, 300, 31), chunks=((0, 20), (64, 129)), padding_tokens=9, padding_rows=2, has_sinks=True),
    "sinks_of_decodes": Case(decodes=(1, 20, 300), kv_heads=1, group=8, has_rope=True, has_sinks=True),
    "sinks_window_and_cap": Case(
        decodes=(5, 300),
        chunks=((250, 150),),
        group=4,
        has_sinks=True,
        spec=AttentionSpec(scale=0.2, window=33, soft_cap=5.0),
    ),
    "many_heads_one_key": Case(decodes=(50,), chunks=((0, 50),), kv_heads=1, group=4, head_dim=256),
    "no_groups_large_pages": Case(
        decodes=(50, 129), chunks=((7, 90),), kv_heads=4, group=1, head_dim=80, page_size=128
    ),
}


def make_arrays(case: Case, seed: int = 0) -> CaseArrays:
    """Fresh random arguments for `case`."""
    rng = np.random.default_rng(seed)
    contexts = [*case.decodes, *(cached + new for cached, new in case.chunks)]
    counts = [1] * len(case.decodes) + [new for _, new in case.chunks]
    pages_needed = [-(-context // case.page_size) for context in contexts]
    num_pages = sum(pages_needed) + 3
    free = rng.permutation(np.arange(1, num_pages)).tolist()
    num_rows = len(contexts) + case.padding_rows
    tables = np.zeros((num_rows, max(pages_needed) + 1), np.int32)
    lens = np.ones(num_rows, np.int32)
    positions: list[int] = []
    slots: list[int] = []
    tiles: list[tuple[int, int, int]] = []
    token = 0
    for row, (context, count) in enumerate(zip(contexts, counts, strict=True)):
        owned = [free.pop() for _ in range(pages_needed[row])]
        tables[row, : len(owned)], lens[row] = owned, context
        places = np.arange(context - count, context)
        positions.extend(places)
        slots.extend(tables[row][places // case.page_size] * case.page_size + places % case.page_size)
        if row >= len(case.decodes):
            tiles.extend((row, token + at, min(TILE_TOKENS, count - at)) for at in range(0, count, TILE_TOKENS))
        token += count
    positions.extend([0] * case.padding_tokens)
    slots.extend([0] * case.padding_tokens)
    pool = (num_pages, case.page_size, case.kv_heads, case.head_dim)
    keys, values = (_pool(rng, pool, tables, lens, case.page_size) for _ in range(2))
    inputs = CaseInputs(
        positions=np.array(positions, np.int32),
        slot_mapping=np.array(slots, np.int32),
        page_tables=tables,
        context_lens=lens,
        num_decodes=np.int32(len(case.decodes)),
        tiles=np.array([*tiles, (0, 0, 0)] if case.chunks else np.zeros((0, 3)), np.int32),
        num_tiles=np.int32(len(tiles)),
    )
    shape = (case.num_tokens, case.kv_heads, case.group + 2, case.head_dim)
    qkv = rng.standard_normal(shape, np.float32)
    return CaseArrays(qkv, _heads(case, rng, np.array(positions)), keys, values, inputs)


def _heads(case: Case, rng: np.random.Generator, positions: np.ndarray) -> HeadInputs:
    # NumPy stands in for arrays of the device, as in CaseInputs.
    q_norm: Any
    k_norm: Any
    q_norm, k_norm = (rng.standard_normal(case.head_dim, np.float32) for _ in range(2))
    angles = np.outer(positions, 0.5 ** np.arange(case.head_dim // 2))
    rope: Any = (np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
    return HeadInputs(
        q_norm=q_norm if case.has_norm else None,
        k_norm=k_norm if case.has_norm else None,
        rope=rope if case.has_rope else None,
        sinks=_sinks(case, rng) if case.has_sinks else None,
    )


def _sinks(case: Case, rng: np.random.Generator) -> Any:
    """From scores that change nothing to such as take nearly all."""
    return rng.uniform(-8, 8, (case.kv_heads, case.group)).astype(np.float32)


def _pool(
    rng: np.random.Generator, shape: tuple[int, ...], tables: np.ndarray, lens: np.ndarray, page_size: int
) -> np.ndarray:
    """Random entries where a request has tokens, a thousandfold elsewhere."""
    pool = rng.standard_normal(shape, np.float32) * 1000
    for table, length in zip(tables, lens, strict=True):
        for place in range(length):
            pool[table[place // page_size], place % page_size] /= 1000 if table[0] else 1
    return pool
