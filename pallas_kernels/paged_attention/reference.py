"""The definition of paged attention, token by token in float64 NumPy. The judge of every other backend."""

from __future__ import annotations

from typing import Any

import numpy as np


def paged_attention(
    qkv: np.ndarray,
    heads: Any,
    keys: np.ndarray,
    values: np.ndarray,
    inputs: Any,
    *,
    spec: Any,
    cache_dtype: Any = np.float64,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Same contract as `api.paged_attention` on NumPy arrays; rows of padding tokens are zero.

    New entries are rounded to `cache_dtype`, those that are too large for it to its largest value.
    """
    query, key, value = _split_heads(qkv.astype(np.float64), heads, spec)
    page_size = keys.shape[1]
    keys, values = keys.astype(np.float64), values.astype(np.float64)
    owners = _owners(inputs, len(query))
    for token, row in enumerate(owners):
        if row is not None:
            page, offset = divmod(int(inputs.slot_mapping[token]), page_size)
            keys[page, offset], values[page, offset] = (_rounded(one[token], cache_dtype) for one in (key, value))
    out = np.zeros(query.shape, np.float64)
    for token, row in enumerate(owners):
        if row is None:
            continue
        position = int(inputs.positions[token])
        first = 0 if spec.window is None else max(0, position - spec.window + 1)
        places = np.arange(first, position + 1)
        pages, offsets = inputs.page_tables[row][places // page_size], places % page_size
        scores = np.einsum("kgd,skd->kgs", query[token].astype(np.float64), keys[pages, offsets]) * spec.scale
        if spec.soft_cap is not None:
            scores = spec.soft_cap * np.tanh(scores / spec.soft_cap)
        if heads.sinks is not None:
            scores = np.concatenate([scores, heads.sinks.astype(np.float64)[:, :, None]], axis=-1)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = (weights / weights.sum(axis=-1, keepdims=True))[..., : len(places)]
        out[token] = np.einsum("kgs,skd->kgd", weights, values[pages, offsets])
    return out, keys, values


def _rounded(entries: np.ndarray, dtype: Any) -> np.ndarray:
    largest = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}.get(np.dtype(dtype).name, np.inf)
    return np.clip(entries, -largest, largest).astype(dtype).astype(np.float64)


def _split_heads(qkv: np.ndarray, heads: Any, spec: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    query, key, value = qkv[:, :, :-2], qkv[:, :, -2:-1], qkv[:, :, -1]
    if heads.q_norm is not None:
        query, key = (
            x
            / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + spec.norm_eps)
            * (weight.astype(np.float64) + spec.norm_offset)
            for x, weight in ((query, heads.q_norm), (key, heads.k_norm))
        )
    if heads.rope is not None:
        cos, sin = heads.rope
        turns = (cos + 1j * sin)[:, None, None]
        query, key = (_turn(x, turns) for x in (query, key))
    return query, key[:, :, 0], value


def _turn(x: np.ndarray, turns: np.ndarray) -> np.ndarray:
    half = x.shape[-1] // 2
    pairs = (x[..., :half] + 1j * x[..., half:]) * turns
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def _owners(inputs: Any, num_tokens: int) -> list[int | None]:
    """The row that each token belongs to; None for padding."""
    owners: list[int | None] = [None] * num_tokens
    for row in range(int(inputs.num_decodes)):
        owners[row] = row
    for row, start, count in np.asarray(inputs.tiles)[: int(inputs.num_tiles)]:
        owners[start : start + count] = [int(row)] * int(count)
    return owners
