"""What a step takes beside weights and cache: XLA's own numbers, kept on disk for the next start.

The pool of pages takes what the programs leave, and the programs' shapes hold the size of the pool. What a program
takes for itself does not depend on it, because the cache is updated in place. So the largest ones are compiled twice
on a machine's first start: once over an estimated pool, while the weights load, for its memory alone, and then over
the true pool. XLA's measurements of products are shared by the two, tracing and code generation are not. The numbers
are kept under a key without the size of the pool; every later start has them for nothing, gets the same pool, and so
finds its programs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxllm.models.config import ModelConfig
from jaxllm.runner.cache_files import write_whole
from jaxllm.runner.defaults import StepLimits

logger = logging.getLogger(__name__)

_STEPS_IN_FLIGHT = 2
"""Steps whose outputs are alive at a time; temporaries are the device's one after the other."""


@dataclass(frozen=True, kw_only=True)
class ProgramMemory:
    """Bytes of one program on each device, beside what it is given."""

    temporaries: int
    outputs: int
    """Without those that take the place of an input."""
    code: int

    @classmethod
    def of(cls, compiled: Any) -> ProgramMemory:
        """What XLA says of a compiled program."""
        analysis = compiled.memory_analysis()
        return cls(
            temporaries=analysis.temp_size_in_bytes,
            outputs=max(0, analysis.output_size_in_bytes - analysis.alias_size_in_bytes),
            code=analysis.generated_code_size_in_bytes,
        )

    @classmethod
    def in_turn(cls, programs: Iterable[ProgramMemory]) -> ProgramMemory:
        """Of programs that run one after the other: their temporaries are the device's in turn, the rest adds up."""
        each = list(programs)
        return cls(
            temporaries=max(one.temporaries for one in each),
            outputs=sum(one.outputs for one in each),
            code=sum(one.code for one in each),
        )

    @property
    def reserved(self) -> int:
        """Bytes to set aside for running it."""
        return self.temporaries + _STEPS_IN_FLIGHT * self.outputs + self.code


def estimated_bytes(model: ModelConfig, limits: StepLimits) -> int:
    """A guess at what a step takes: logits, their float32 copies, and the activations of the MLP.

    A CPU, where nothing depends on it, takes more: attention gathers the pages there.
    """
    logits = 12 * limits.max_num_seqs * model.vocab_size
    return logits + 8 * limits.max_num_batched_tokens * (model.hidden_size + model.intermediate_size)


class MemoryRecord:
    """The file that keeps one program's memory for the next start."""

    def __init__(self, directory: Path, key: str) -> None:
        """`key` names everything that shapes the program but the size of the pool."""
        self._path = directory / f"memory-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def read(self) -> ProgramMemory | None:
        """What an earlier start wrote; None if there is nothing, or nothing that makes sense."""
        try:
            values = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        names = {field.name for field in dataclasses.fields(ProgramMemory)}
        is_sound = isinstance(values, dict) and set(values) == names
        if not is_sound or not all(type(value) is int and value >= 0 for value in values.values()):
            logger.warning("%s is damaged; the programs' memory is measured again.", self._path)
            return None
        return ProgramMemory(**values)

    def write(self, memory: ProgramMemory) -> None:
        """Keeps it; a directory that can't be written to is told in the log."""
        try:
            write_whole(self._path, json.dumps(dataclasses.asdict(memory)).encode())
        except OSError as error:
            logger.warning("The programs' memory can't be kept for the next start: %s", error)
