"""Draws tokens on the device, in programs of their own behind the step's, when a row wants more than the likeliest.

A step takes each row's likeliest token by itself and has no conditions: a CUDA graph that has some costs the host half
a millisecond more a launch, which is a third of a small model's step. Where no row samples, nothing runs here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxllm.runner.batch import HostConstraints
from jaxllm.runner.executables import Compiled, Lower
from jaxllm.runner.packed_scores import PackedScores
from jaxllm.runner.penalty_counts import reset_counts, update_counts
from jaxllm.runner.sampler import LogprobsMode, TokenScores, sample
from jaxllm.runner.sampling_rows import sampling_inputs, unpack_rows
from jaxllm.sampling_params import MAX_LOGIT_EDITS
from jaxllm.steps import SlotStart

COUNTED_CHUNK = 1024
"""Tokens that one call of the program for penalty counts takes."""
COUNTS = "counts"
"""Name of that program: it sets a slot's penalty counts."""


class SampledState(NamedTuple):
    """What stays on the device for the sampler alone, always at the same address."""

    counts: jax.Array
    """int16 [slots + 1, vocab], the penalty counts."""
    top: jax.Array
    """int32 [2, most rows, top], the likeliest tokens of the last step that wanted logprobs, see `PackedScores`."""


class Constraints(NamedTuple):
    """Per-step changes to logits, mostly absent: then a constant of the same shape stands in."""

    edit_ids: jax.Array
    """int32 [rows, edits]"""
    edit_values: jax.Array
    """float32 [rows, edits]"""
    bitmask: jax.Array
    """uint32 [rows, ceil(vocab / 32)]"""

    @classmethod
    def shapes(cls, rows: int, vocab_size: int, everywhere: NamedSharding) -> Constraints:
        """Those of a program for so many rows."""
        struct: Any = partial(jax.ShapeDtypeStruct, sharding=everywhere)
        return cls(
            struct((rows, MAX_LOGIT_EDITS), np.int32),
            struct((rows, MAX_LOGIT_EDITS), np.float32),
            struct((rows, -(-vocab_size // 32)), np.uint32),
        )


class TokenSampler:
    """The programs, by the number of rows, and the arrays that only they read and write."""

    def __init__(self, sizes: Sequence[int], state: SampledState, everywhere: NamedSharding) -> None:
        """Takes the memory; `state` are shapes."""
        self._state = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype, device=one.sharding), state)
        self._everywhere = everywhere
        vocab_size = state.counts.shape[1]
        self._unconstrained = {rows: self._no_constraints(rows, vocab_size) for rows in sizes}
        self._programs: Mapping[str, Compiled] = {}

    @property
    def top(self) -> jax.Array:
        """See `SampledState`."""
        return self._state.top

    def start(
        self, programs: Mapping[str, Compiled], last_tokens: jax.Array, tokens: jax.Array, logits: jax.Array, rows: Any
    ) -> tuple[jax.Array, jax.Array]:
        """Takes the programs, which may become more, and runs each once on what `sample` takes."""
        self._programs = programs
        self._count(self._state.counts.shape[0] - 1, np.zeros(0, np.int32), np.zeros(0, np.int32))
        for size in self._ready:
            last_tokens, tokens = self._run(size, last_tokens, tokens, logits, rows, HostConstraints(None, None))
        return last_tokens, tokens

    def begin(self, start: SlotStart) -> None:
        """Counts the tokens of a slot's new request, which has penalties."""
        self._count(start.slot, start.prompt_token_ids, start.output_token_ids)

    def sample(
        self,
        num_rows: int,
        last_tokens: jax.Array,
        tokens: jax.Array,
        logits: jax.Array,
        rows: jax.Array,
        constraints: HostConstraints,
    ) -> tuple[jax.Array, jax.Array]:
        """(last_tokens, tokens) with what the step's rows draw in place of their likeliest tokens; both are donated.

        `logits` and `rows` are what the step left, `constraints` those of at least `num_rows` rows.
        """
        size = next(size for size in self._ready if size >= num_rows)
        return self._run(size, last_tokens, tokens, logits, rows, constraints)

    def delete(self) -> None:
        """Frees the programs and their memory."""
        for array in jax.tree.leaves((self._state, self._unconstrained)):
            array.delete()
        self._programs = {}

    @property
    def _ready(self) -> list[int]:
        return [size for size in self._unconstrained if _name(size) in self._programs]

    def _run(
        self, size: int, last_tokens: Any, tokens: Any, logits: Any, rows: Any, constraints: HostConstraints
    ) -> tuple[jax.Array, jax.Array]:
        program = self._programs[_name(size)]
        given = self._put(constraints, size)
        last_tokens, tokens, self._state = program(last_tokens, tokens, self._state, logits, rows, given)
        return last_tokens, tokens

    def _count(self, slot: int, prompt: np.ndarray, output: np.ndarray) -> None:
        """Sets the slot's penalty counts, `COUNTED_CHUNK` tokens of prompt and output at a time."""
        counts = self._state.counts
        for at in range(0, max(len(prompt), len(output), 1), COUNTED_CHUNK):
            pieces = (np.array([slot, at == 0], np.int32), _chunk(prompt, at), _chunk(output, at))
            on_device = (jax.device_put(piece, self._everywhere) for piece in pieces)
            counts = self._programs[COUNTS](counts, *on_device)
        self._state = self._state._replace(counts=counts)

    def _put(self, host: HostConstraints, rows: int) -> Constraints:
        constraints = self._unconstrained[rows]
        if host.edits is not None:
            ids, values = (jax.device_put(_fill_up(array, rows), self._everywhere) for array in host.edits)
            constraints = constraints._replace(edit_ids=ids, edit_values=values)
        if host.bitmask is not None:
            constraints = constraints._replace(bitmask=jax.device_put(_fill_up(host.bitmask, rows), self._everywhere))
        return constraints

    def _no_constraints(self, rows: int, vocab_size: int) -> Constraints:
        fillers = -1, 0, 0xFFFFFFFF
        arrays = (
            jax.device_put(np.full(struct.shape, filler, struct.dtype), self._everywhere)
            for struct, filler in zip(Constraints.shapes(rows, vocab_size, self._everywhere), fillers, strict=True)
        )
        return Constraints(*arrays)


def lower_samplers(
    sizes: Sequence[int],
    *,
    last_tokens: Any,
    tokens: Any,
    state: SampledState,
    logits: Any,
    rows: Any,
    logprobs_mode: LogprobsMode,
    everywhere: NamedSharding,
    options: Any,
) -> dict[str, Lower]:
    """What traces and lowers each program of `TokenSampler`, for shapes with their shardings."""
    shapes = (last_tokens, tokens, state, logits, rows)
    samplers = {_name(size): partial(_lower, size, shapes, logprobs_mode, everywhere, options) for size in sizes}
    return {COUNTS: partial(_lower_counts, state.counts, everywhere), **samplers}


def sampler_names(sizes: Sequence[int]) -> list[str]:
    """Names of the programs that sample, in the order of `sizes`."""
    return [_name(size) for size in sizes]


def draw_tokens(
    last_tokens: jax.Array,
    tokens: jax.Array,
    state: SampledState,
    logits: jax.Array,
    rows: jax.Array,
    constraints: Constraints,
    *,
    logprobs_mode: LogprobsMode,
) -> tuple[jax.Array, jax.Array, SampledState]:
    """(last_tokens, tokens, state) after as many rows as `constraints` has have drawn; the traced part."""
    size = constraints.edit_ids.shape[0]
    fields = unpack_rows(rows[:, :size])
    sampled = sample(
        logits[:size],
        state.counts,
        sampling_inputs(fields, constraints._asdict()),
        max_logprobs=state.top.shape[2],
        logprobs_mode=logprobs_mode,
    )
    slots = fields["write_slot"]
    counted = slots < last_tokens.shape[0] - 1
    scores = PackedScores(tokens, state.top).replace_rows(sampled.token_ids, TokenScores(*sampled[1:]))
    counts = update_counts(state.counts, slots, sampled.token_ids, counted)
    return last_tokens.at[slots].set(sampled.token_ids), scores.tokens, SampledState(counts, scores.top)


def _lower(size: int, shapes: Any, mode: LogprobsMode, everywhere: NamedSharding, options: Any) -> Any:
    state = shapes[2]

    def sample_tokens(last_tokens: Any, tokens: Any, state: Any, logits: Any, rows: Any, constraints: Any) -> Any:
        return draw_tokens(last_tokens, tokens, state, logits, rows, constraints, logprobs_mode=mode)

    program = jax.jit(
        sample_tokens, donate_argnums=(0, 1, 2), keep_unused=True, out_shardings=everywhere, compiler_options=options
    )
    return program.lower(*shapes, Constraints.shapes(size, state.counts.shape[1], everywhere))


def _lower_counts(counts: Any, everywhere: NamedSharding) -> Any:
    def count(counts: jax.Array, slot_first: jax.Array, prompt: jax.Array, output: jax.Array) -> jax.Array:
        return reset_counts(counts, slot_first[0], prompt, output, slot_first[1] != 0)

    slot_first, chunk = (jax.ShapeDtypeStruct((size,), np.int32, sharding=everywhere) for size in (2, COUNTED_CHUNK))
    return jax.jit(count, donate_argnums=0, out_shardings=everywhere).lower(counts, slot_first, chunk, chunk)


def _name(rows: int) -> str:
    return f"sample_{rows}"


def _chunk(tokens: np.ndarray, start: int) -> np.ndarray:
    """`COUNTED_CHUNK` tokens from `start`, filled up with -1."""
    chunk = np.full(COUNTED_CHUNK, -1, np.int32)
    piece = tokens[start : start + COUNTED_CHUNK]
    chunk[: len(piece)] = piece
    return chunk


_FILLERS = {np.dtype(np.int32): -1, np.dtype(np.float32): 0, np.dtype(np.uint32): 0xFFFFFFFF}


def _fill_up(array: np.ndarray, rows: int) -> np.ndarray:
    """As many rows, those beyond the array's without constraints."""
    filled = np.full((rows, array.shape[1]), _FILLERS[array.dtype], array.dtype)
    filled[: min(rows, len(array))] = array[:rows]
    return filled
