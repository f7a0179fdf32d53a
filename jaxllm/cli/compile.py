"""`jaxllm compile MODEL`: fills the cache of compiled programs, so that a later start compiles nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from jaxllm.cli.options import EngineOptions, takes_options

if TYPE_CHECKING:
    from jaxllm.precompile import ReadyProgram

_TITLES = ("program", "trace s", "compile s", "temporaries MiB", "outputs MiB")


@takes_options(EngineOptions)
def compile_model(options: EngineOptions) -> None:
    """Compile a model's programs for a later start with the same flags; no weights are loaded."""
    config = options.engine_config()
    started = time.perf_counter()
    from jaxllm.precompile import precompile

    programs = precompile(config)
    _print_table(programs)
    num_compiled = sum(program.times is not None for program in programs)
    seconds = time.perf_counter() - started
    print(f"{num_compiled} programs compiled, {len(programs) - num_compiled} in the cache already, in {seconds:.1f} s")


def _print_table(programs: list[ReadyProgram]) -> None:
    width = max(len(_TITLES[0]), *(len(program.name) for program in programs))
    print(f"{_TITLES[0]:<{width}}", *_TITLES[1:], sep="  ")
    for program in programs:
        times = program.times
        seconds = ("cached", "") if times is None else (f"{times.trace:.2f}", f"{times.compile:.2f}")
        sizes = (f"{size / 2**20:.1f}" for size in (program.memory.temporaries, program.memory.outputs))
        cells = (f"{value:>{len(title)}}" for title, value in zip(_TITLES[1:], (*seconds, *sizes), strict=True))
        print(f"{program.name:<{width}}", *cells, sep="  ")
