"""The paged attention kernels alone on one GPU: bytes per second of decode, arithmetic rate of prompt chunks.

python benchmarks/gpu_attention.py

Times are the profiler's for each kernel, the median of some launches. Decode launches take turns with pages that are
too many for the GPU's second-level cache. The ceilings are a device copy and a matrix product in the same run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.models.inputs import AttentionInputs
from jaxllm.pallas_kernels.paged_attention import triton as kernels
from jaxllm.pallas_kernels.paged_attention.api import AttentionSpec
from jaxllm.pallas_kernels.paged_attention.heads import HeadInputs
from jaxllm.pallas_kernels.paged_attention.tiles import TILE_TOKENS

KV_HEADS, GROUP, HEAD_DIM = 8, 4, 128
SPEC = AttentionSpec(scale=HEAD_DIM**-0.5)
LAUNCHES = 6
COLD_BYTES = 400_000_000
"""More than any second-level cache holds."""

DECODES = {
    "1 x 192": [192],
    "1 x 1024": [1024],
    "1 x 32768": [32768],
    "8 x 2048": [2048] * 8,
    "64 x 192": [192] * 64,
    "64 x 1024": [1024] * 64,
    "64 x 2048": [2048] * 64,
    "256 x 192": [192] * 256,
    "256 x 512": [512] * 256,
    "256 x 1024": [1024] * 256,
    "1 x 32768 and 63 x 256": [32768] + [256] * 63,
}
CHUNKS = {"1 x 2048": (1, 2048, 0), "1 x 8192": (1, 8192, 0), "8 x 1024": (8, 1024, 0), "2048 on 8192": (1, 2048, 8192)}
"""Requests, new tokens and cached tokens of each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page-size", type=int, default=16)
    options = parser.parse_args()
    copy, product = copy_rate(), product_rate()
    print(f"{jax.devices()[0].device_kind}, bfloat16, {KV_HEADS} kv heads, group {GROUP}, head_dim {HEAD_DIM}")
    print(f"device copy {copy / 1e12:.2f} TB/s read and written, matrix product {product / 1e12:.0f} TFLOP/s")
    for name, contexts in DECODES.items():
        rate = sum(contexts) * KV_HEADS * HEAD_DIM * 4 / (seconds := time_decode(contexts, options.page_size))
        print(f"decode {name}: {seconds * 1e6:.1f} us, {rate / 1e12:.2f} TB/s, {rate / copy:.0%} of the copy")
    for name, (requests, tokens, cached) in CHUNKS.items():
        seconds = time_chunks(requests, tokens, cached, options.page_size)
        pairs = requests * (tokens * cached + tokens * (tokens + 1) / 2)
        rate = 4 * pairs * KV_HEADS * GROUP * HEAD_DIM / seconds
        print(f"chunk {name}: {seconds * 1e6:.1f} us, {rate / 1e12:.0f} TFLOP/s")


def time_decode(contexts: list[int], page_size: int) -> float:
    """Seconds of one layer's decode attention, rotary embedding and cache write included."""
    rng, rows = np.random.default_rng(0), len(contexts)
    needed = [-(-context // page_size) for context in contexts]
    num_bytes = sum(contexts) * KV_HEADS * HEAD_DIM * 4
    turns = max(1, min(LAUNCHES, COLD_BYTES // num_bytes))
    tables = np.zeros((turns, rows, max(512, *needed)), np.int32)
    ids = iter(rng.permutation(np.arange(1, turns * sum(needed) + 1)))
    for table in tables.reshape(-1, tables.shape[-1])[: turns * rows].reshape(turns, rows, -1):
        for row, pages in enumerate(needed):
            table[row, :pages] = [next(ids) for _ in range(pages)]
    lens = jnp.asarray(contexts, jnp.int32)
    angles = np.outer(np.array(contexts) - 1, 0.9 ** np.arange(HEAD_DIM // 2)).astype(np.float32)
    heads = HeadInputs(rope=(jnp.cos(angles), jnp.sin(angles)))

    def launches(qkv: jax.Array, keys: jax.Array, values: jax.Array) -> Any:
        outputs = []
        for launch in range(LAUNCHES):
            inputs = _inputs(lens - 1, jnp.asarray(tables[launch % turns]), lens, num_decodes=rows)
            output, keys, values = kernels.paged_attention(qkv, heads, keys, values, inputs, spec=SPEC)
            outputs.append(output)
        return keys, values, outputs

    pool = (turns * sum(needed) + 1, page_size, KV_HEADS, HEAD_DIM)
    run = jax.jit(launches, donate_argnums=(1, 2))
    qkv, keys, values = (
        _normal(i, shape) for i, shape in enumerate(((rows, KV_HEADS, GROUP + 2, HEAD_DIM), pool, pool))
    )

    def again(state: Any) -> Any:
        return run(qkv, *state[:2])

    return _kernel_seconds("decode", again, (keys, values))


def time_chunks(requests: int, tokens: int, cached: int, page_size: int) -> float:
    """Seconds of one layer's attention of prompt chunks, all of one length."""
    pages = -(-(cached + tokens) // page_size)
    ids = np.random.default_rng(0).permutation(np.arange(1, requests * pages + 1)).reshape(requests, pages)
    starts = range(0, tokens, TILE_TOKENS)
    tiles = [(row, row * tokens + at, min(TILE_TOKENS, tokens - at)) for row in range(requests) for at in starts]
    positions = jnp.asarray(np.tile(np.arange(cached, cached + tokens), requests), jnp.int32)
    inputs = _inputs(positions, jnp.asarray(ids, jnp.int32), positions[:1], tiles=tiles)
    pool = (requests * pages + 1, page_size, KV_HEADS, HEAD_DIM)
    qkv = jax.ShapeDtypeStruct((requests * tokens, KV_HEADS, GROUP + 2, HEAD_DIM), jnp.bfloat16)

    @jax.jit
    def launches(query: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
        constants = kernels._constants(qkv, HeadInputs(), keys, inputs, SPEC)
        for _ in range(LAUNCHES):  # each takes the last one's output for its query
            query = kernels.chunks(query, keys, values, inputs.positions, inputs, constants)
        return query

    keys, values = _normal(1, pool), _normal(2, pool)
    query = _normal(0, (requests * tokens, KV_HEADS, GROUP, HEAD_DIM))
    return _kernel_seconds("chunk", lambda query: launches(query, keys, values), query)


def copy_rate() -> float:
    """Bytes that a copy on the device reads and writes in a second."""
    array = jnp.ones(1 << 28, jnp.float32)
    copy = jax.jit(lambda x: x + 1, donate_argnums=0)
    return 2 * array.nbytes / _loop_seconds(copy, array)


def product_rate(size: int = 8192) -> float:
    """Operations per second of a large bfloat16 matrix product."""
    matrix = _normal(0, (size, size))
    return 2 * size**3 / _loop_seconds(jax.jit(lambda _: matrix @ matrix), matrix)


def _inputs(
    positions: jax.Array, tables: jax.Array, lens: jax.Array, *, num_decodes: int = 0, tiles: Any = ()
) -> AttentionInputs:
    array = jnp.asarray(np.array(tiles).reshape(-1, 3), jnp.int32)
    return AttentionInputs(positions, positions, tables, lens, jnp.int32(num_decodes), array, jnp.int32(array.shape[0]))


def _normal(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return jax.jit(partial(jax.random.normal, shape=shape, dtype=jnp.bfloat16))(jax.random.key(seed))


def _loop_seconds(function: Callable[[jax.Array], jax.Array], argument: jax.Array, repeats: int = 20) -> float:
    argument = function(argument).block_until_ready()
    started = time.perf_counter()
    for _ in range(repeats):
        argument = function(argument)
    argument.block_until_ready()
    return (time.perf_counter() - started) / repeats


def _kernel_seconds(prefix: str, function: Callable[[Any], Any], state: Any) -> float:
    """Median duration of the kernels that start with `prefix`; `function` takes its own result."""
    for _ in range(2):
        state = jax.block_until_ready(function(state))
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            for _ in range(3):
                state = function(state)
            jax.block_until_ready(state)
        (path,) = Path(directory).rglob("*.xplane.pb")
        planes = [plane for plane in jax.profiler.ProfileData.from_file(str(path)).planes if "GPU" in plane.name]
    events = [event for plane in planes for line in plane.lines for event in line.events]
    nanoseconds = [event.duration_ns for event in events if event.name.startswith(prefix)]
    assert nanoseconds, f"the profile has no kernel named {prefix}..."
    return float(np.median(nanoseconds)) / 1e9


if __name__ == "__main__":
    main()
