"""The device side of the engine: weights, cache and compiled programs; one dispatch per step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.runner.background_compile import BackgroundCompile
from jaxllm.runner.batch import HostConstraints, SlotTable, has_penalties
from jaxllm.runner.beam_selector import BeamSelector
from jaxllm.runner.buckets import smallest
from jaxllm.runner.executables import Compiled, ExecutableStore
from jaxllm.runner.fixed_memory import Fetcher, FixedBuffers, open_holes
from jaxllm.runner.layout import Bucket
from jaxllm.runner.page_copier import PageCopier
from jaxllm.runner.programs import COUNTED_CHUNK, COUNTS, ProgramSet
from jaxllm.runner.results import DispatchedStep
from jaxllm.runner.step import Constraints, DeviceState
from jaxllm.sampling_params import MAX_LOGIT_EDITS
from jaxllm.steps import ScheduledStep, SlotStart


class ModelRunner:
    """Runs steps. Construct it, call `compile`, then `dispatch`."""

    def __init__(self, programs: ProgramSet, weights: Sequence[jax.Array]) -> None:
        """Takes the cache's memory. `weights` are as `programs.weights` say."""
        config = self.config = programs.config
        self.num_pages = config.num_pages
        self.page_size = config.page_size
        self.max_model_len = config.max_model_len
        self.max_num_seqs = config.max_num_seqs
        self.max_num_batched_tokens = config.max_num_batched_tokens
        self.vocab_size = programs.vocab_size
        self._set = programs
        self._everywhere = programs.everywhere
        self._weights = tuple(weights)
        self._platform = programs.platform
        self._layouts = programs.layouts
        self._buffers = FixedBuffers(programs.buffer_sizes, self._everywhere)
        self._copier = PageCopier(programs.row_sizes, programs.mesh)
        self._beams = BeamSelector(programs.row_sizes, vocab_size=programs.vocab_size, everywhere=self._everywhere)
        self._slots = SlotTable(config.max_num_seqs, programs.vocab_size, config.page_size)
        self._state: DeviceState = _zeros(programs.state)
        self._fences = open_holes(self._everywhere) if self._platform == "gpu" else []
        self._fetcher = Fetcher()
        self._no_constraints = {rows: self._unconstrained(rows) for rows in {b.num_rows for b in programs.buckets}}
        self._programs: dict[str, Compiled] = {}
        self._buckets: Sequence[Bucket] = ()
        """Those whose programs are there, smallest first."""
        self._background: BackgroundCompile | None = None

    def compile(self, store: ExecutableStore, on_done: Callable[[str], None], *, in_background: bool = False) -> int:
        """Gets the programs from the store, compiling what it lacks, and runs each once: then no step compiles.

        With `in_background` it waits only for the programs that are needed to run any step, and gives the number of
        those that are compiled while steps run already; a step takes the smallest program that is ready.
        """
        self._programs = store.load_all(self._set.names, on_done)
        missing = [name for name in self._set.names if name not in self._programs]
        now = [name for name in missing if name in self._set.needed or not in_background]
        later = [name for name in missing if name not in now]
        background = self._background = BackgroundCompile(store, self._set.lowers(later), self._take_program)
        try:
            self._programs |= store.compile_all(self._set.lowers(now), on_done, on_traced=background.start_tracing)
            self._buckets = self._ready_buckets()
            self._warm_up()
        except BaseException:
            background.stop()
            raise
        background.start_compiling()
        return len(later)

    @property
    def num_programs_to_compile(self) -> int:
        """Programs that still compile in the background."""
        return 0 if self._background is None else self._background.num_left

    def wait_until_compiled(self, timeout: float | None = None) -> bool:
        """Blocks until no program is left to compile in the background; False after `timeout` seconds."""
        return self._background is None or self._background.wait(timeout)

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
        """Frees weights, cache and programs. What is being compiled in the background is not waited for."""
        if self._background is not None:
            self._background.stop()
        for array in jax.tree.leaves((self._state, self._weights, self._no_constraints, self._fences)):
            array.delete()
        for helper in (self._buffers, self._copier, self._beams, self._fetcher):
            helper.delete()
        self._programs = {}
        self._weights = ()

    def _run(self, bucket: Bucket, buffer: np.ndarray, constraints: Constraints) -> None:
        # The state is donated: keep no reference to the old one.
        on_device = self._buffers.put(buffer)
        self._state = self._programs[bucket.name](self._weights, self._state, on_device, constraints)

    def _fetch(self, name: str) -> Any:
        return self._fetcher.fetch(name, self._state.results()[name])

    def _warm_up(self) -> None:
        """Runs each program once, which loads it and records its CUDA graph."""
        self._buffers.start(self._programs)
        for bucket in self._buckets:
            self._run(bucket, np.zeros(self._layouts[bucket].size, np.int32), self._no_constraints[bucket.num_rows])
        self._count_tokens(self.max_num_seqs, np.zeros(0, np.int32), np.zeros(0, np.int32))
        self._state = self._state._replace(caches=self._copier.start(self._programs, self._state.caches))
        self._beams.start(self._programs, self._state.logits)
        self._fetcher.start(self._programs, self._state.results())
        jax.block_until_ready(self._state)

    def _take_program(self, name: str, compiled: Compiled) -> None:
        """From the next step on the program runs; called by the background's threads, one at a time."""
        self._programs[name] = compiled
        self._buckets = self._ready_buckets()  # a new list: a step that is choosing goes on with the old one

    def _ready_buckets(self) -> list[Bucket]:
        return [bucket for bucket in self._set.buckets if bucket.name in self._programs]

    def _start_counts(self, start: SlotStart) -> None:
        if has_penalties(start.sampling_params):
            self._count_tokens(start.slot, start.prompt_token_ids, start.output_token_ids)

    def _count_tokens(self, slot: int, prompt: np.ndarray, output: np.ndarray) -> None:
        """Sets the slot's penalty counts, `COUNTED_CHUNK` tokens of prompt and output at a time."""
        counts = self._state.counts
        for at in range(0, max(len(prompt), len(output), 1), COUNTED_CHUNK):
            pieces = (np.array([slot, at == 0], np.int32), _chunk(prompt, at), _chunk(output, at))
            on_device = (jax.device_put(piece, self._everywhere) for piece in pieces)
            counts = self._programs[COUNTS](counts, *on_device)
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


def _zeros(structs: Any) -> Any:
    return jax.tree.map(lambda struct: jnp.zeros(struct.shape, struct.dtype, device=struct.sharding), structs)


def _chunk(tokens: np.ndarray, start: int) -> np.ndarray:
    """`COUNTED_CHUNK` tokens from `start`, filled up with -1."""
    chunk = np.full(COUNTED_CHUNK, -1, np.int32)
    piece = tokens[start : start + COUNTED_CHUNK]
    chunk[: len(piece)] = piece
    return chunk
