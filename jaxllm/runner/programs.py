"""Which programs an engine runs, their shapes, and how each is traced and lowered. Nothing here holds an array."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
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
from jaxllm.runner.buckets import bucket_ladder, row_sizes, sampled_sizes
from jaxllm.runner.compiler_options import compiler_options
from jaxllm.runner.executables import Lower
from jaxllm.runner.fixed_memory import buffer_shape, lower_fetches, lower_loads
from jaxllm.runner.layout import Bucket, Layout
from jaxllm.runner.packed_scores import PackedScores
from jaxllm.runner.page_copier import lower_copies
from jaxllm.runner.page_swap import lower_swaps
from jaxllm.runner.prompt_scorer import PROMPT_SCORES, lower_prompt_scores
from jaxllm.runner.sampler import LogprobsMode
from jaxllm.runner.sampling_rows import rows_shape
from jaxllm.runner.sharding import replicated, shard
from jaxllm.runner.step import DeviceState, StepProgram, merge
from jaxllm.runner.token_sampler import Constraints, SampledState, lower_samplers, sampler_names


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
    cache_dtype: str
    """Of keys and values."""


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
        hidden_size: int,
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
        self._merge = partial(merge, graphdef, treedef)
        self._make_program = partial(StepProgram, graphdef, treedef, replicated=self.everywhere)
        self.buffer_sizes = [layout.size for layout in self.layouts.values()]
        """Lengths of the steps' buffers."""
        self.row_sizes = row_sizes(self.platform, self.buckets[-1].num_rows)
        """Rows of the programs that copy pages and choose beams."""
        self.sampled_sizes = sampled_sizes(self.platform, self.buckets[-1].num_rows)
        """Rows of the programs that draw tokens."""
        self.state = self._state(cache_shape, num_layers, hidden_size)
        """Shapes of what stays on the device between steps."""
        self.sampled = self._sampled()
        """Shapes of what the sampler keeps there for itself."""
        self.prompt = self._scores(self.buckets[-1].num_tokens)
        """Shapes of what prompt_logprobs are made of."""

    @cached_property
    def names(self) -> list[str]:
        """All programs: first the needed ones, then the other steps, the smallest first: they gain the most."""
        decode = [bucket.name for bucket in self.buckets[:-1] if not bucket.has_chunks]
        mixed = [bucket.name for bucket in self.buckets[:-1] if bucket.has_chunks]
        others = chain.from_iterable(zip_longest(decode[:-1], mixed, self._smaller_samplers))
        return [*self.needed, *(name for name in others if name is not None)]

    @cached_property
    def needed(self) -> list[str]:
        """The programs without which some step could not run: the largest ones, and all that come in one size."""
        smaller = {*(bucket.name for bucket in self.buckets), *self._smaller_samplers}
        largest_decode = [bucket.name for bucket in self.buckets if not bucket.has_chunks][-1]
        return [self.buckets[-1].name, largest_decode, *(name for name in self._lowers if name not in smaller)]

    @property
    def largest(self) -> list[str]:
        """The programs that take the most memory beside weights and cache, one after the other in a step: the step of
        every row and the most tokens, and the sampler of every row."""
        return [self.buckets[-1].name, sampler_names(self.sampled_sizes)[-1]]

    @property
    def _smaller_samplers(self) -> list[str]:
        return sampler_names(self.sampled_sizes)[:-1]

    def lowers(self, names: Iterable[str]) -> dict[str, Lower]:
        """What traces and lowers these programs, by name: a second of Python each for a large model."""
        return {name: self._lowers[name] for name in names}

    @property
    def resident_bytes(self) -> int:
        """Bytes on each device beside weights and cache, whatever runs: slots, results, buffers, and constraints that
        forbid nothing."""
        shapes = partial(Constraints.shapes, vocab_size=self.vocab_size, everywhere=self.everywhere)
        constraints = [shapes(rows) for rows in self.sampled_sizes]
        bitmasks = [shapes(rows).bitmask for rows in self.row_sizes]
        buffers = [buffer_shape(size, self.everywhere) for size in self.buffer_sizes]
        kept = (self.state._replace(caches=()), self.sampled, self.prompt, constraints, bitmasks, buffers)
        return sum(struct.size * struct.dtype.itemsize for struct in jax.tree.leaves(kept))

    @cached_property
    def _lowers(self) -> dict[str, Lower]:
        config, sizes = self.config, self.row_sizes
        options = compiler_options(self.platform, self.buckets[-1], self._autotune_directory)
        return {
            **{bucket.name: partial(self._lower_step, bucket) for bucket in self.buckets},
            PROMPT_SCORES: self._lower_prompt_scores,
            **lower_samplers(
                self.sampled_sizes,
                last_tokens=self.state.last_tokens,
                tokens=self.state.tokens,
                state=self.sampled,
                logits=self.state.logits,
                rows=self.state.rows,
                logprobs_mode=config.logprobs_mode,
                everywhere=self.everywhere,
                options=options,
            ),
            **lower_copies(sizes, self.state.caches, self.mesh, options),
            **lower_swaps(self.state.caches, self.mesh, options),
            **lower_beams(
                sizes,
                self.state.logits,
                num_candidates=min(config.max_logprobs, 2 * config.max_num_seqs),
                everywhere=self.everywhere,
            ),
            **lower_loads(self.buffer_sizes, self.everywhere),
            **lower_fetches({"tokens": self.state.tokens, "top": self.sampled.top, "prompt": self.prompt}),
        }

    def _lower_step(self, bucket: Bucket) -> Any:
        layout = self.layouts[bucket]
        program = self._make_program(layout)
        buffer = buffer_shape(layout.size, self.everywhere)

        def step(weights: Any, state: Any, buffer: Any) -> Any:
            return program(weights, state, buffer)

        step.__name__ = bucket.name
        with self._precision():
            return jax.jit(
                step,
                donate_argnums=1,
                keep_unused=True,  # what a step overwrites without reading it must stay where it is, too
                out_shardings=_shardings(self.state),
                compiler_options=compiler_options(self.platform, bucket, self._autotune_directory),
            ).lower(self.weights, self.state, buffer)

    def _lower_prompt_scores(self) -> Any:
        with self._precision():
            return lower_prompt_scores(
                self.weights,
                lambda weights, hidden: self._merge(weights).logits(hidden),
                scores=self.prompt,
                hidden=self.state.hidden,
                targets=self.state.targets,
                logprobs_mode=self.config.logprobs_mode,
                everywhere=self.everywhere,
            )

    def _precision(self) -> AbstractContextManager[None]:
        """Accelerators would round the factors of float32 products to tf32 or bfloat16."""
        is_exact = self.config.dtype == "float32" and self.platform != "cpu"
        return jax.default_matmul_precision("highest" if is_exact else None)

    def _state(self, cache_shape: tuple[int, ...], num_layers: int, hidden_size: int) -> Any:
        sharding = shard(self.mesh, cache_shape, (None, None, "kv_heads", None))
        dtype = jax.numpy.dtype(self.config.dtype)
        cache: Any = jax.ShapeDtypeStruct(cache_shape, jax.numpy.dtype(self.config.cache_dtype), sharding=sharding)
        most_rows, most_tokens = self.buckets[-1].num_rows, self.buckets[-1].num_tokens
        return DeviceState(
            tuple(KVCache(cache, cache) for _ in range(num_layers)),
            last_tokens=self._struct((self.config.max_num_seqs + 1,), np.int32),
            tokens=self._scores(most_rows).tokens,
            logits=self._struct((most_rows, self.vocab_size), dtype),
            rows=self._struct(*rows_shape(most_rows)),
            hidden=self._struct((most_tokens, hidden_size), dtype),
            targets=self._struct((most_tokens,), np.int32),
        )

    def _sampled(self) -> Any:
        counts = self._struct((self.config.max_num_seqs + 1, self.vocab_size), np.int16)
        return SampledState(counts, self._scores(self.buckets[-1].num_rows).top)

    def _scores(self, rows: int) -> PackedScores:
        top = (2, rows, self.config.max_logprobs)
        return PackedScores(self._struct((3, rows), np.int32), self._struct(top, np.int32))

    def _struct(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.everywhere)


def _shardings(structs: Any) -> Any:
    return jax.tree.map(lambda struct: struct.sharding, structs)
