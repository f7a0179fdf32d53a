"""The paged attention kernels alone on one GPU: bytes per second of decode, arithmetic rate of prompt chunks.

python benchmarks/gpu_attention.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.pallas_kernels.paged_attention import triton as kernels
from jaxllm.pallas_kernels.paged_attention.api import AttentionSpec
from jaxllm.pallas_kernels.paged_attention.tiles import TILE_TOKENS

KV_HEADS, GROUP, HEAD_DIM = 8, 4, 128
REPEATS = 20


class Inputs(NamedTuple):
    """The fields of `RaggedInputs` that the kernels read."""

    positions: Any
    slot_mapping: Any
    page_tables: Any
    context_lens: Any
    num_decodes: Any
    tiles: Any
    num_tiles: Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page-size", type=int, default=16)
    options = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, bfloat16, {KV_HEADS} kv heads, group {GROUP}, head_dim {HEAD_DIM}")
    for rows, context in ((1, 1024), (1, 8192), (8, 2048), (64, 256), (64, 1024), (64, 4096), (256, 1024)):
        seconds = time_decode(rows, context, options.page_size)
        num_bytes = rows * context * KV_HEADS * HEAD_DIM * 4
        print(f"decode rows {rows} context {context}: {seconds * 1e6:.0f} us, {num_bytes / seconds / 1e12:.2f} TB/s")
    for tokens, cached in ((128, 0), (2048, 0), (8192, 0), (2048, 6144)):
        seconds = time_chunk(tokens, cached, options.page_size)
        pairs = tokens * cached + tokens * (tokens + 1) / 2
        flops = 4 * pairs * KV_HEADS * GROUP * HEAD_DIM
        print(f"chunk of {tokens} after {cached}: {seconds * 1e6:.0f} us, {flops / seconds / 1e12:.0f} TFLOP/s")


def time_decode(rows: int, context: int, page_size: int) -> float:
    """Seconds of one layer's decode attention."""
    inputs, pool = make_inputs([context] * rows, page_size)
    inputs = inputs._replace(num_decodes=jnp.int32(rows), tiles=jnp.zeros((0, 3), jnp.int32), num_tiles=jnp.int32(0))
    return _time(rows, pool, inputs, kernels._decode)


def time_chunk(tokens: int, cached: int, page_size: int) -> float:
    """Seconds of one layer's attention of a prompt chunk."""
    inputs, pool = make_inputs([cached + tokens], page_size)
    starts = np.arange(0, tokens, TILE_TOKENS)
    tiles = np.stack([0 * starts, starts, np.minimum(tokens - starts, TILE_TOKENS)], axis=1)
    inputs = inputs._replace(
        positions=jnp.arange(cached, cached + tokens, dtype=jnp.int32),
        tiles=jnp.asarray(tiles, jnp.int32),
        num_tiles=jnp.int32(len(tiles)),
    )
    return _time(tokens, pool, inputs, kernels._chunks)


def make_inputs(contexts: list[int], page_size: int) -> tuple[Inputs, tuple[int, ...]]:
    """Pages dealt out at random, and the shape of their pool."""
    rng = np.random.default_rng(0)
    pages = -(-max(contexts) // page_size)
    ids = rng.permutation(np.arange(1, len(contexts) * pages + 1)).reshape(len(contexts), pages)
    zero = jnp.zeros((1,), jnp.int32)
    inputs = Inputs(
        zero,
        zero,
        jnp.asarray(ids, jnp.int32),
        jnp.asarray(contexts, jnp.int32),
        jnp.int32(0),
        zero,
        jnp.int32(0),
    )
    return inputs, (len(contexts) * pages + 1, page_size, KV_HEADS, HEAD_DIM)


def _time(tokens: int, pool: tuple[int, ...], inputs: Inputs, attend: Callable[..., jax.Array]) -> float:
    normal = partial(jax.random.normal, dtype=jnp.bfloat16)
    query, keys, values = (
        normal(jax.random.key(index), shape)
        for index, shape in enumerate(((tokens, KV_HEADS, GROUP, HEAD_DIM), pool, pool))
    )
    spec = AttentionSpec(scale=HEAD_DIM**-0.5)

    @jax.jit
    def repeat(query: jax.Array, keys: jax.Array, values: jax.Array, inputs: Inputs) -> jax.Array:
        constants = kernels._constants(query, keys, inputs, spec)
        for _ in range(REPEATS):  # each takes the last one's output for its query
            query = attend(query, keys, values, inputs, constants)
        return query

    for _ in range(3):
        repeat(query, keys, values, inputs).block_until_ready()
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        repeat(query, keys, values, inputs).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)) / REPEATS


if __name__ == "__main__":
    main()
