"""The device side of the engine: weights, cache and compiled programs; one dispatch per step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.runner.background_compile import BackgroundCompile
from jaxllm.runner.batch import SlotTable, has_penalties
from jaxllm.runner.beam_selector import BeamSelector
from jaxllm.runner.buckets import smallest
from jaxllm.runner.executables import Compiled, ExecutableStore
from jaxllm.runner.fixed_memory import Fetcher, FixedBuffers, open_holes
from jaxllm.runner.layout import Bucket
from jaxllm.runner.page_copier import PageCopier
from jaxllm.runner.page_swap import make_page_swap
from jaxllm.runner.programs import ProgramSet
from jaxllm.runner.prompt_scorer import PromptScorer
from jaxllm.runner.results import DispatchedStep
from jaxllm.runner.step import DeviceState
from jaxllm.runner.token_sampler import TokenSampler
from jaxllm.steps import ScheduledStep


class ModelRunner:
    """Runs steps. Construct it, call `compile`, then `dispatch`."""

    def __init__(self, programs: ProgramSet, weights: Sequence[jax.Array], *, num_host_pages: int = 0) -> None:
        """Takes the cache's memory. `weights` are as `programs.weights` say.

        Up to `num_host_pages` pages of preempted requests are kept in the host's memory.
        """
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
        self._swap = make_page_swap(num_host_pages, programs.state.caches, programs.mesh)
        self._beams = BeamSelector(programs.row_sizes, vocab_size=programs.vocab_size, everywhere=self._everywhere)
        self._slots = SlotTable(config.max_num_seqs, programs.vocab_size, config.page_size)
        self._sampler = TokenSampler(programs.sampled_sizes, programs.sampled, self._everywhere)
        self._scorer = PromptScorer(programs.prompt)
        self._state: DeviceState = _zeros(programs.state)
        self._fences = open_holes(self._everywhere) if self._platform == "gpu" else []
        self._fetcher = Fetcher()
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
    def num_host_pages(self) -> int:
        """Pages of the host's memory that are there by now."""
        return self._swap.num_pages

    def reserve_host_pages(self) -> None:
        """Starts to find memory for all host pages, where that takes time; a second call does nothing."""
        self._swap.reserve()

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
            if has_penalties(start.sampling_params):
                self._sampler.begin(start)
        self._move_pages(step)
        requests = step.requests
        bucket = smallest(
            self._buckets,
            num_tokens=step.num_tokens,
            num_rows=len(requests),
            has_chunks=any(request.num_tokens > 1 for request in requests),
        )
        packed = self._slots.pack(requests, self._layouts[bucket])
        self._run(bucket, packed.buffer)
        if packed.needs_sampler:
            last_tokens, tokens = self._sampler.sample(len(requests), *self._sampled(), packed.constraints)
            self._state = self._state._replace(last_tokens=last_tokens, tokens=tokens)
        if packed.needs_prompt_scores:
            self._scorer.run(self._weights, self._state.hidden, self._state.targets)
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
        # What still runs may use the memory that the helpers free. After a failed step there is nothing to wait for.
        with suppress(RuntimeError):
            jax.block_until_ready(self._state)
        for array in jax.tree.leaves((self._state, self._weights, self._fences)):
            array.delete()
        helpers = (self._buffers, self._copier, self._swap, self._beams, self._fetcher, self._sampler, self._scorer)
        for helper in helpers:
            helper.delete()
        self._programs = {}
        self._weights = ()

    def _move_pages(self, step: ScheduledStep) -> None:
        """What must be elsewhere, or back, before the step."""
        if not (step.page_saves or step.page_loads or step.page_copies):
            return
        caches = self._state.caches
        if step.page_saves:
            caches = self._swap.save(step.page_saves, caches)
        if step.page_loads:
            caches = self._swap.load(step.page_loads, caches)
        if step.page_copies:
            caches = self._copier.copy(step.page_copies, caches)
        self._state = self._state._replace(caches=caches)

    def _run(self, bucket: Bucket, buffer: np.ndarray) -> None:
        # The state is donated: keep no reference to the old one.
        on_device = self._buffers.put(buffer)
        self._state = self._programs[bucket.name](self._weights, self._state, on_device)

    def _sampled(self) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """What the sampler takes of the step before it."""
        state = self._state
        return state.last_tokens, state.tokens, state.logits, state.rows

    def _fetch(self, name: str) -> Any:
        return self._fetcher.fetch(name, self._results()[name])

    def _results(self) -> dict[str, Any]:
        """What the last step has left for the host, by the names of `jaxllm.runner.results.Fetch`."""
        return {"tokens": self._state.tokens, "top": self._sampler.top, "prompt": self._scorer.scores}

    def _warm_up(self) -> None:
        """Runs each program once, which loads it and records its CUDA graph."""
        self._buffers.start(self._programs)
        for bucket in self._buckets:
            self._run(bucket, np.zeros(self._layouts[bucket].size, np.int32))
        last_tokens, tokens = self._sampler.start(self._programs, *self._sampled())
        self._state = self._state._replace(last_tokens=last_tokens, tokens=tokens)
        self._scorer.start(self._programs, self._weights, self._state.hidden, self._state.targets)
        caches = self._copier.start(self._programs, self._state.caches)
        self._state = self._state._replace(caches=self._swap.start(self._programs, caches))
        self._beams.start(self._programs, self._state.logits)
        self._fetcher.start(self._programs, self._results())
        jax.block_until_ready(self._state)

    def _take_program(self, name: str, compiled: Compiled) -> None:
        """From the next step on the program runs; called by the background's threads, one at a time."""
        self._programs[name] = compiled
        self._buckets = self._ready_buckets()  # a new list: a step that is choosing goes on with the old one

    def _ready_buckets(self) -> list[Bucket]:
        return [bucket for bucket in self._set.buckets if bucket.name in self._programs]


def _zeros(structs: Any) -> Any:
    return jax.tree.map(lambda struct: jnp.zeros(struct.shape, struct.dtype, device=struct.sharding), structs)
