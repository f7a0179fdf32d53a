"""The device side of the engine: weights, cache and compiled programs; one dispatch per step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxllm.models.causal_lm import CausalLM
from jaxllm.models.inputs import KVCache
from jaxllm.runner.batch import HostConstraints, SlotTable, has_penalties
from jaxllm.runner.beam_selector import BeamSelector
from jaxllm.runner.buckets import bucket_ladder, row_sizes, smallest
from jaxllm.runner.compiler_options import compiler_options
from jaxllm.runner.executables import Compiled, ExecutableStore
from jaxllm.runner.fixed_memory import Fetcher, FixedBuffers, open_holes
from jaxllm.runner.layout import Bucket, Layout
from jaxllm.runner.packed_scores import PackedScores
from jaxllm.runner.page_copier import PageCopier
from jaxllm.runner.penalty_counts import reset_counts
from jaxllm.runner.results import DispatchedStep
from jaxllm.runner.sampler import LogprobsMode
from jaxllm.runner.sharding import replicated, shard
from jaxllm.runner.step import Constraints, DeviceState, StepProgram
from jaxllm.sampling_params import MAX_LOGIT_EDITS
from jaxllm.steps import ScheduledStep, SlotStart

_COUNTED_CHUNK = 1024
"""Tokens that one call of the program for penalty counts takes."""


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


class ModelRunner:
    """Runs steps. Construct it, call `compile`, then `dispatch`."""

    def __init__(
        self,
        config: RunnerConfig,
        *,
        graphdef: nnx.GraphDef[CausalLM],
        treedef: jax.tree_util.PyTreeDef,
        weights: tuple[jax.Array, ...],
        cache_shape: tuple[int, ...],
        num_layers: int,
        vocab_size: int,
        mesh: Mesh,
    ) -> None:
        self.config = config
        self.num_pages = config.num_pages
        self.page_size = config.page_size
        self.max_model_len = config.max_model_len
        self.max_num_seqs = config.max_num_seqs
        self.max_num_batched_tokens = config.max_num_batched_tokens
        self.vocab_size = vocab_size
        self._mesh = mesh
        self._everywhere = replicated(mesh)
        self._weights = weights
        self._make_program = partial(
            StepProgram,
            graphdef,
            treedef,
            max_logprobs=config.max_logprobs,
            logprobs_mode=config.logprobs_mode,
            replicated=self._everywhere,
        )
        self._platform = mesh.devices.flat[0].platform
        self._buckets = bucket_ladder(self._platform, config.max_num_seqs, config.max_num_batched_tokens)
        pages_per_request = -(-config.max_model_len // config.page_size)
        self._layouts = {bucket: Layout(bucket, pages_per_request) for bucket in self._buckets}
        most_rows = self._buckets[-1].num_rows
        self._buffers = FixedBuffers([layout.size for layout in self._layouts.values()], self._everywhere)
        sizes = row_sizes(self._platform, most_rows)
        self._copier = PageCopier(sizes, mesh, compiler_options(self._platform, self._buckets[-1]))
        self._beams = BeamSelector(
            sizes,
            vocab_size=vocab_size,
            num_candidates=min(config.max_logprobs, 2 * config.max_num_seqs),
            everywhere=self._everywhere,
        )
        self._slots = SlotTable(config.max_num_seqs, vocab_size, config.page_size)
        self._state = self._initial_state(cache_shape, num_layers)
        self._fences = open_holes(self._everywhere) if self._platform == "gpu" else []
        self._fetcher = Fetcher(self._results())
        self._no_constraints = {rows: self._unconstrained(rows) for rows in {b.num_rows for b in self._buckets}}
        self._programs: dict[str, Compiled] = {}

    @property
    def program_names(self) -> list[str]:
        """The programs that `compile` makes."""
        return list(self._lowers())

    def compile(self, store: ExecutableStore, on_done: Callable[[str], None]) -> None:
        """Gets every program from the store, compiling what it lacks, and runs each once: then nothing compiles."""
        self._programs = store.get_all(self._lowers(), on_done)
        self._buffers.start(self._programs)
        for bucket in self._buckets:
            self._run(bucket, np.zeros(self._layouts[bucket].size, np.int32), self._no_constraints[bucket.num_rows])
        self._count_tokens(self.max_num_seqs, np.zeros(0, np.int32), np.zeros(0, np.int32))
        self._state = self._state._replace(caches=self._copier.start(self._programs, self._state.caches))
        self._beams.start(self._programs, self._state.logits)
        self._fetcher.start(self._programs, self._results())
        jax.block_until_ready(self._state)

    def dispatch(self, step: ScheduledStep) -> DispatchedStep:
        """Starts the step; its results are copied to the host as soon as they are there."""
        for start in step.starts:
            self._slots.start(start)
            self._start_counts(start)
        if step.page_copies:
            self._state = self._state._replace(caches=self._copier.copy(step.page_copies, self._state.caches))
        requests = step.requests
        bucket = smallest(
            self._buckets,
            num_tokens=step.num_tokens,
            num_rows=len(requests),
            has_chunks=any(request.num_tokens > 1 for request in requests),
        )
        buffer, constraints = self._slots.pack(requests, self._layouts[bucket])
        self._run(bucket, buffer, self._put_constraints(constraints, bucket.num_rows))
        params = [self._slots.params(request.slot) for request in requests]
        if not step.num_beam_places:
            return DispatchedStep(step, params, self._fetch)
        groups = self._slots.beam_groups(requests)
        beams = self._beams.select(groups, requests, self._slots.beam_bitmask(requests), self._state.logits)
        return DispatchedStep(step, params, self._fetch, groups, beams)

    def shutdown(self) -> None:
        """Frees weights, cache and programs."""
        for array in jax.tree.leaves((self._state, self._weights, self._no_constraints, self._fences)):
            array.delete()
        for helper in (self._buffers, self._copier, self._beams):
            helper.delete()
        self._programs = {}
        self._weights = ()

    def _run(self, bucket: Bucket, buffer: np.ndarray, constraints: Constraints) -> None:
        # The state is donated: keep no reference to the old one.
        on_device = self._buffers.put(buffer)
        self._state = self._programs[bucket.name](self._weights, self._state, on_device, constraints)

    def _results(self) -> dict[str, Any]:
        """What the last step has left, by the names of `Fetch`."""
        return {"tokens": self._state.drawn.tokens, "top": self._state.drawn.top, "prompt": self._state.prompt}

    def _fetch(self, name: str) -> Any:
        return self._fetcher.fetch(name, self._results()[name])

    def _lowers(self) -> dict[str, Callable[[], Any]]:
        """What traces and lowers each program, those first that take longest to compile."""
        steps = {bucket.name: partial(self._lower_step, bucket) for bucket in reversed(self._buckets)}
        return {
            **steps,
            _COUNTS: self._lower_counts,
            **self._copier.lowers(self._state.caches),
            **self._beams.lowers(self._state.logits),
            **self._buffers.lowers(),
            **self._fetcher.lowers(),
        }

    def _lower_step(self, bucket: Bucket) -> Any:
        layout = self._layouts[bucket]
        program = self._make_program(layout)
        buffer = self._buffers.shape(layout.size)
        arguments = (self._weights, self._state, buffer, self._no_constraints[bucket.num_rows])

        def step(weights: Any, state: Any, buffer: Any, constraints: Any) -> Any:
            return program(weights, state, buffer, constraints)

        step.__name__ = bucket.name
        shardings = jax.tree.map(lambda array: array.sharding, self._state)
        # Accelerators would round the factors of float32 products to tf32 or bfloat16.
        is_exact = self.config.dtype == "float32" and self._platform != "cpu"
        options = compiler_options(self._platform, bucket)
        program_of = partial(jax.jit, donate_argnums=1, out_shardings=shardings, compiler_options=options)
        with jax.default_matmul_precision("highest" if is_exact else None):
            return program_of(step).lower(*arguments)

    def _lower_counts(self) -> Any:
        chunk = jax.ShapeDtypeStruct((_COUNTED_CHUNK,), np.int32, sharding=self._everywhere)
        scalar = jax.ShapeDtypeStruct((2,), np.int32, sharding=self._everywhere)

        def count(counts: jax.Array, slot_first: jax.Array, prompt: jax.Array, output: jax.Array) -> jax.Array:
            return reset_counts(counts, slot_first[0], prompt, output, slot_first[1] != 0)

        return jax.jit(count, donate_argnums=0, out_shardings=self._everywhere).lower(
            self._state.counts, scalar, chunk, chunk
        )

    def _start_counts(self, start: SlotStart) -> None:
        if has_penalties(start.sampling_params):
            self._count_tokens(start.slot, start.prompt_token_ids, start.output_token_ids)

    def _count_tokens(self, slot: int, prompt: np.ndarray, output: np.ndarray) -> None:
        """Sets the slot's penalty counts, `_COUNTED_CHUNK` tokens of prompt and output at a time."""
        counts = self._state.counts
        for at in range(0, max(len(prompt), len(output), 1), _COUNTED_CHUNK):
            pieces = (np.array([slot, at == 0], np.int32), _chunk(prompt, at), _chunk(output, at))
            on_device = (jax.device_put(piece, self._everywhere) for piece in pieces)
            counts = self._programs[_COUNTS](counts, *on_device)
        self._state = self._state._replace(counts=counts)

    def _put_constraints(self, host: HostConstraints, num_rows: int) -> Constraints:
        constraints = self._no_constraints[num_rows]
        if host.edits is not None:
            ids, values = (jax.device_put(array, self._everywhere) for array in host.edits)
            constraints = constraints._replace(edit_ids=ids, edit_values=values)
        if host.bitmask is not None:
            constraints = constraints._replace(bitmask=jax.device_put(host.bitmask, self._everywhere))
        return constraints

    def _unconstrained(self, rows: int) -> Constraints:
        words = -(-self.vocab_size // 32)
        return Constraints(
            jax.device_put(np.full((rows, MAX_LOGIT_EDITS), -1, np.int32), self._everywhere),
            jax.device_put(np.zeros((rows, MAX_LOGIT_EDITS), np.float32), self._everywhere),
            jax.device_put(np.full((rows, words), 0xFFFFFFFF, np.uint32), self._everywhere),
        )

    def _initial_state(self, cache_shape: tuple[int, ...], num_layers: int) -> DeviceState:
        sharding = shard(self._mesh, cache_shape, (None, None, "kv_heads", None))
        zeros = partial(jnp.zeros, cache_shape, self.config.dtype, device=sharding)
        caches = tuple(KVCache(zeros(), zeros()) for _ in range(num_layers))
        slots, most_rows = self.max_num_seqs + 1, self._buckets[-1].num_rows
        whole = partial(jnp.zeros, device=self._everywhere)

        def scores(rows: int) -> PackedScores:
            return PackedScores(whole((3, rows), jnp.int32), whole((2, rows, self.config.max_logprobs), jnp.int32))

        return DeviceState(
            caches,
            last_tokens=whole((slots,), jnp.int32),
            counts=whole((slots, self.vocab_size), jnp.int16),
            logits=whole((most_rows, self.vocab_size), self.config.dtype),
            drawn=scores(most_rows),
            prompt=scores(self._buckets[-1].num_tokens),
        )


_COUNTS = "counts"


def _chunk(tokens: np.ndarray, start: int) -> np.ndarray:
    """`_COUNTED_CHUNK` tokens from `start`, filled up with -1."""
    chunk = np.full(_COUNTED_CHUNK, -1, np.int32)
    piece = tokens[start : start + _COUNTED_CHUNK]
    chunk[: len(piece)] = piece
    return chunk
