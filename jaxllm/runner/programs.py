"""Which programs an engine runs, their shapes, and how each is traced and lowered. Nothing here holds an array."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from jaxllm.models.causal_lm import CausalLM
from jaxllm.models.inputs import KVCache
from jaxllm.runner.beam_selector import lower_beams
from jaxllm.runner.buckets import bucket_ladder, row_sizes
from jaxllm.runner.compiler_options import compiler_options
from jaxllm.runner.executables import Lower
from jaxllm.runner.fixed_memory import buffer_shape, lower_fetches, lower_loads
from jaxllm.runner.layout import Bucket, Layout
from jaxllm.runner.packed_scores import PackedScores
from jaxllm.runner.page_copier import lower_copies
from jaxllm.runner.penalty_counts import reset_counts
from jaxllm.runner.sampler import LogprobsMode
from jaxllm.runner.sharding import replicated, shard
from jaxllm.runner.step import Constraints, DeviceState, StepProgram
from jaxllm.sampling_params import MAX_LOGIT_EDITS

COUNTED_CHUNK = 1024
"""Tokens that one call of the program for penalty counts takes."""

COUNTS = "counts"
"""Name of the program that sets a slot's penalty counts."""


@dataclass(frozen=True, kw_only=True)
class RunnerConfig:
    """Everything that shapes the programs, besides the model."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    page_size: int
    num_pages: int
    max_logprobs: int
    """Most logprobs a program returns per position; a beam search keeps at most half as many beams."""
    logprobs_mode: LogprobsMode
    dtype: str


class ProgramSet:
    """The programs of one configuration, by name, and the shapes of what they take."""

    def __init__(
        self,
        config: RunnerConfig,
        *,
        graphdef: nnx.GraphDef[CausalLM],
        treedef: jax.tree_util.PyTreeDef,
        weights: Sequence[jax.ShapeDtypeStruct],
        cache_shape: tuple[int, ...],
        num_layers: int,
        vocab_size: int,
        mesh: Mesh,
        autotune_directory: Path | None = None,
    ) -> None:
        """`weights` carry their shardings; XLA keeps what it measures on a GPU in `autotune_directory`."""
        self.config = config
        self.mesh = mesh
        self.vocab_size = vocab_size
        self.everywhere: NamedSharding = replicated(mesh)
        self.platform: str = mesh.devices.flat[0].platform
        self.buckets = bucket_ladder(self.platform, config.max_num_seqs, config.max_num_batched_tokens)
        """All of them, smallest first: decode ones, then mixed ones."""
        pages_per_request = -(-config.max_model_len // config.page_size)
        self.layouts = {bucket: Layout(bucket, pages_per_request) for bucket in self.buckets}
        self.weights = tuple(weights)
        self._autotune_directory = autotune_directory
        self._make_program = partial(
            StepProgram,
            graphdef,
            treedef,
            max_logprobs=config.max_logprobs,
            logprobs_mode=config.logprobs_mode,
            replicated=self.everywhere,
        )
        self.buffer_sizes = [layout.size for layout in self.layouts.values()]
        """Lengths of the steps' buffers."""
        self.row_sizes = row_sizes(self.platform, self.buckets[-1].num_rows)
        """Rows of the programs that copy pages and choose beams."""
        self.state = self._state(cache_shape, num_layers)
        """Shapes of what stays on the device."""

    @cached_property
    def names(self) -> list[str]:
        """All programs: first the needed ones, then the other steps, the smallest first: they gain the most."""
        decode = [bucket.name for bucket in self.buckets[:-1] if not bucket.has_chunks]
        mixed = [bucket.name for bucket in self.buckets[:-1] if bucket.has_chunks]
        others = chain.from_iterable(zip_longest(decode[:-1], mixed))
        return [*self.needed, *(name for name in others if name is not None)]

    @cached_property
    def needed(self) -> list[str]:
        """The programs without which some step could not run: the largest steps, and all that are no steps."""
        steps = {bucket.name for bucket in self.buckets}
        largest_decode = [bucket.name for bucket in self.buckets if not bucket.has_chunks][-1]
        return [self.largest, largest_decode, *(name for name in self._lowers if name not in steps)]

    @property
    def largest(self) -> str:
        """The program that takes the most memory beside weights and cache: every row, and the most tokens."""
        return self.buckets[-1].name

    def lowers(self, names: Iterable[str]) -> dict[str, Lower]:
        """What traces and lowers these programs, by name: a second of Python each for a large model."""
        return {name: self._lowers[name] for name in names}

    def constraints(self, num_rows: int) -> Constraints:
        """Shapes of the constraints of a step with so many rows."""
        words = -(-self.vocab_size // 32)
        return Constraints(
            self._struct((num_rows, MAX_LOGIT_EDITS), np.int32),
            self._struct((num_rows, MAX_LOGIT_EDITS), np.float32),
            self._struct((num_rows, words), np.uint32),
        )

    @property
    def resident_bytes(self) -> int:
        """Bytes on each device beside weights and cache, whatever runs: slots, results, buffers, and constraints that
        forbid nothing."""
        rows = {bucket.num_rows for bucket in self.buckets}
        constraints = [self.constraints(num_rows) for num_rows in rows]
        bitmasks = [self.constraints(num_rows).bitmask for num_rows in self.row_sizes]
        buffers = [buffer_shape(size, self.everywhere) for size in self.buffer_sizes]
        kept = (self.state._replace(caches=()), constraints, bitmasks, buffers)
        return sum(struct.size * struct.dtype.itemsize for struct in jax.tree.leaves(kept))

    @cached_property
    def _lowers(self) -> dict[str, Lower]:
        config, sizes = self.config, self.row_sizes
        options = compiler_options(self.platform, self.buckets[-1], self._autotune_directory)
        return {
            **{bucket.name: partial(self._lower_step, bucket) for bucket in self.buckets},
            COUNTS: self._lower_counts,
            **lower_copies(sizes, self.state.caches, self.mesh, options),
            **lower_beams(
                sizes,
                self.state.logits,
                num_candidates=min(config.max_logprobs, 2 * config.max_num_seqs),
                everywhere=self.everywhere,
            ),
            **lower_loads(self.buffer_sizes, self.everywhere),
            **lower_fetches(self.state.results()),
        }

    def _lower_step(self, bucket: Bucket) -> Any:
        layout = self.layouts[bucket]
        program = self._make_program(layout)
        buffer = buffer_shape(layout.size, self.everywhere)

        def step(weights: Any, state: Any, buffer: Any, constraints: Any) -> Any:
            return program(weights, state, buffer, constraints)

        step.__name__ = bucket.name
        # Accelerators would round the factors of float32 products to tf32 or bfloat16.
        is_exact = self.config.dtype == "float32" and self.platform != "cpu"
        with jax.default_matmul_precision("highest" if is_exact else None):
            return jax.jit(
                step,
                donate_argnums=1,
                out_shardings=_shardings(self.state),
                compiler_options=compiler_options(self.platform, bucket, self._autotune_directory),
            ).lower(self.weights, self.state, buffer, self.constraints(bucket.num_rows))

    def _lower_counts(self) -> Any:
        chunk = self._struct((COUNTED_CHUNK,), np.int32)

        def count(counts: jax.Array, slot_first: jax.Array, prompt: jax.Array, output: jax.Array) -> jax.Array:
            return reset_counts(counts, slot_first[0], prompt, output, slot_first[1] != 0)

        return jax.jit(count, donate_argnums=0, out_shardings=self.everywhere).lower(
            self.state.counts, self._struct((2,), np.int32), chunk, chunk
        )

    def _state(self, cache_shape: tuple[int, ...], num_layers: int) -> Any:
        sharding = shard(self.mesh, cache_shape, (None, None, "kv_heads", None))
        cache: Any = jax.ShapeDtypeStruct(cache_shape, jax.numpy.dtype(self.config.dtype), sharding=sharding)
        slots, most_rows = self.config.max_num_seqs + 1, self.buckets[-1].num_rows
        return DeviceState(
            tuple(KVCache(cache, cache) for _ in range(num_layers)),
            last_tokens=self._struct((slots,), np.int32),
            counts=self._struct((slots, self.vocab_size), np.int16),
            logits=self._struct((most_rows, self.vocab_size), cache.dtype),
            drawn=self._scores(most_rows),
            prompt=self._scores(self.buckets[-1].num_tokens),
        )

    def _scores(self, rows: int) -> PackedScores:
        top = (2, rows, self.config.max_logprobs)
        return PackedScores(self._struct((3, rows), np.int32), self._struct(top, np.int32))

    def _struct(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.everywhere)


def _shardings(structs: Any) -> Any:
    return jax.tree.map(lambda struct: struct.sharding, structs)
