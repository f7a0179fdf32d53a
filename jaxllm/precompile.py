"""Compiles an engine's programs into the cache, without loading weights: a later start finds them all."""

from __future__ import annotations

from dataclasses import dataclass

from jaxllm.blueprint import Blueprint
from jaxllm.config import EngineConfig
from jaxllm.log import set_up_logging
from jaxllm.models.loading.model_files import ModelFiles
from jaxllm.runner.executables import CompileTimes
from jaxllm.runner.program_memory import ProgramMemory


@dataclass(frozen=True, kw_only=True)
class ReadyProgram:
    """A program that is in the cache."""

    name: str
    memory: ProgramMemory
    times: CompileTimes | None
    """None if it was there already."""


def precompile(config: EngineConfig) -> list[ReadyProgram]:
    """Gets every program that an engine with this configuration runs into the cache.

    Takes a device of the kind that will serve, and of its memory only what XLA needs to measure kernels.
    """
    set_up_logging()
    blueprint = Blueprint.make(config, ModelFiles.find(config, wants_weights=False))
    programs = blueprint.programs(blueprint.measure_programs())
    store = blueprint.store(programs)
    compiled = store.get_all(programs.lowers(programs.names), lambda name: None)
    return [
        ReadyProgram(name=name, memory=ProgramMemory.of(compiled[name]), times=store.compile_times.get(name))
        for name in programs.names
    ]
