"""What tracing in the background costs a step: host work of a step's kind beside the tracing of a large model.

python -m benchmarks.background_tracing benchmarks/configs/llama-3.1-8b
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from typing import Any

import numpy as np

from jaxllm.blueprint import Blueprint
from jaxllm.engine_args import make_engine_config
from jaxllm.models.loading.model_files import ModelFiles
from jaxllm.runner.programs import ProgramSet

PYTHON_DEFAULT = 5e-3
CALLS = 8
"""Calls of a step that let go of Python: transfers, the program, copies of results."""
PAUSE = 4e-3
"""Seconds between two steps' host work, in which the engine waits for the device."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--turns", type=float, nargs="+", default=[PYTHON_DEFAULT, 1e-3, 1e-4], help="seconds")
    options = parser.parse_args()
    config = make_engine_config(
        options.model,
        device="cpu",
        dtype="bfloat16",
        max_model_len=8192,
        max_num_seqs=256,
        max_num_batched_tokens=8192,
        kv_cache_memory_bytes="8GiB",
    )
    blueprint = Blueprint.make(config, ModelFiles.find(config))
    print(f"alone: {measure(lambda: time.sleep(2))}")
    for turn in options.turns:
        sys.setswitchinterval(turn)
        programs = blueprint.programs(None)  # a new one, whose traces are not cached
        seconds: list[float] = []
        report = measure(lambda programs=programs, seconds=seconds: seconds.extend(trace_all(programs)))
        print(f"beside tracing in turns of {turn * 1e3:g} ms: {report}; {np.mean(seconds):.2f} s a program")


def measure(run: Any) -> str:
    """Percentiles of the host work of steps while `run` runs."""
    ended = threading.Event()
    times: list[float] = []

    def serve() -> None:
        while not ended.is_set():
            times.append(host_work())
            time.sleep(PAUSE)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        run()
    finally:
        ended.set()
        thread.join()
    median, most, longest = np.percentile(np.array(times) * 1e3, [50, 90, 100])
    return f"median {median:.2f} ms, 90 % below {most:.2f}, longest {longest:.0f} ms"


def host_work() -> float:
    """Seconds of some Python between calls that let go of it."""
    started = time.perf_counter()
    for _ in range(CALLS):
        time.sleep(0)
        sum(range(5000))
    return time.perf_counter() - started


def trace_all(programs: ProgramSet) -> list[float]:
    """Seconds that each program took."""
    seconds = []
    for lower in programs.lowers(programs.names[2:]).values():
        started = time.perf_counter()
        lower()
        seconds.append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    main()
