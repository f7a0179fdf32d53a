"""Chooses beams on the device, in programs of their own, so that steps without beams carry none of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxllm.runner.beam_groups import BeamGroup, BeamLayout, pack_beams
from jaxllm.runner.beam_selection import BeamInputs, PackedBeams, pack_outputs, select_beams
from jaxllm.runner.executables import Compiled, Lower
from jaxllm.runner.fixed_memory import FixedBuffers, buffer_shape, lower_loads
from jaxllm.steps import ScheduledRequest


class BeamSelector:
    """The programs, by the number of rows. They read the logits that the step before them left on the device."""

    def __init__(self, sizes: Sequence[int], *, vocab_size: int, everywhere: NamedSharding) -> None:
        self._layouts = {rows: BeamLayout(rows) for rows in sizes}
        self._buffers = FixedBuffers([layout.size for layout in self._layouts.values()], everywhere)
        self._everywhere = everywhere
        self._num_words = -(-vocab_size // 32)
        self._no_bitmasks = {rows: self._put(self._all_bits(rows)) for rows in self._layouts}
        self._programs: dict[int, Compiled] = {}

    def start(self, programs: Mapping[str, Compiled], logits: jax.Array) -> None:
        """Takes the compiled programs and runs each once."""
        self._buffers.start(programs)
        self._programs = {rows: programs[_name(rows)] for rows in self._layouts}
        for rows, layout in self._layouts.items():
            self._run(rows, np.zeros(layout.size, np.int32), self._no_bitmasks[rows], logits)

    def select(
        self,
        groups: Sequence[BeamGroup],
        requests: Sequence[ScheduledRequest],
        bitmask: np.ndarray | None,
        logits: jax.Array,
    ) -> PackedBeams:
        """Starts the choice among the rows of a step. `bitmask` is uint32 [requests, ceil(vocab / 32)], if some may not
        have every token; `logits` are those that the step has left.
        """
        last = groups[-1]
        needed = max(len(requests), last.first_place + last.settings.width)
        rows = next(rows for rows in self._layouts if rows >= needed)
        buffer = np.zeros(self._layouts[rows].size, np.int32)
        views = self._layouts[rows].views(buffer)
        pack_beams(groups, requests, views)
        masks = self._no_bitmasks[rows]
        if bitmask is not None:
            views["any_bitmask"][...] = True
            padded = self._all_bits(rows)
            padded[: len(bitmask)] = bitmask
            masks = self._put(padded)
        return self._run(rows, buffer, masks, logits)

    def delete(self) -> None:
        """Frees the programs and their memory."""
        self._buffers.delete()
        for array in self._no_bitmasks.values():
            array.delete()
        self._programs = {}

    def _run(self, rows: int, buffer: np.ndarray, bitmask: jax.Array, logits: jax.Array) -> PackedBeams:
        outputs: PackedBeams = self._programs[rows](logits, self._buffers.put(buffer), bitmask)
        return outputs

    def _all_bits(self, rows: int) -> np.ndarray:
        return np.full((rows, self._num_words), 0xFFFFFFFF, np.uint32)

    def _put(self, array: np.ndarray) -> jax.Array:
        return jax.device_put(array, self._everywhere)


def lower_beams(
    sizes: Sequence[int], logits: Any, *, num_candidates: int, everywhere: NamedSharding
) -> dict[str, Lower]:
    """What traces and lowers each program of `BeamSelector` for logits of this shape."""
    loads = lower_loads([BeamLayout(rows).size for rows in sizes], everywhere)
    return loads | {_name(rows): partial(_lower, rows, logits, num_candidates, everywhere) for rows in sizes}


def _lower(rows: int, logits: Any, num_candidates: int, everywhere: NamedSharding) -> Any:
    layout = BeamLayout(rows)
    bitmask = jax.ShapeDtypeStruct((rows, -(-logits.shape[1] // 32)), np.uint32, sharding=everywhere)

    def choose_beams(logits: jax.Array, buffer: jax.Array, bitmask: jax.Array) -> PackedBeams:
        fields = layout.unpack(buffer)
        given = {**fields, "bitmask": bitmask, "any_bitmask": fields["any_bitmask"] != 0}
        inputs = BeamInputs(**{name: given[name] for name in BeamInputs._fields})
        return pack_outputs(select_beams(logits[:rows], inputs, num_candidates=num_candidates))

    program = jax.jit(choose_beams, out_shardings=everywhere)
    return program.lower(logits, buffer_shape(layout.size, everywhere), bitmask)


def _name(rows: int) -> str:
    return f"beams_{rows}"
