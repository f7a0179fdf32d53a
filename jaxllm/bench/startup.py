"""Start-up time: fresh processes that load a model and generate one token, with empty and with filled caches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxllm.bench.report import median, percentiles
from jaxllm.errors import JaxLLMError


@dataclass(frozen=True, kw_only=True)
class StartupTimes:
    """Seconds of one process."""

    startup: float
    """Making the `JaxLLM` object: loading, compiling, warming up."""
    compilation: float
    """The share of `startup` in which programs were compiled or read from the cache."""
    time_to_first_token: float
    """From the process' start to its first token, imports included."""
    phases: dict[str, float]
    """Every phase that was measured, by name: import, those of `JaxLLM.startup_seconds`, first_token."""


@dataclass(frozen=True, kw_only=True)
class StartupResult:
    """All measured processes."""

    model_id: str
    """The model as the user named it."""
    cold: list[StartupTimes]
    """Processes that started with an empty cache."""
    warm: list[StartupTimes]
    """Processes that found everything cached."""

    def as_json(self) -> dict[str, Any]:
        """Keys as in vLLM for startup and compilation; time to first token and phases are ours."""
        return {"model_id": self.model_id} | _summed_up("cold", self.cold) | _summed_up("warm", self.warm)

    def summary(self) -> str:
        """One line per kind of start, then its phases."""
        lines = []
        for kind, times in (("Cold", self.cold), ("Warm", self.warm)):
            if times:
                startup, first_token = (
                    median([getattr(one, name) for one in times]) for name in ("startup", "time_to_first_token")
                )
                lines.append(f"{kind} start: {startup:.2f} s, first token after {first_token:.2f} s of the process")
                lines += [f"  {name}: {seconds:.2f} s" for name, seconds in _median_phases(times).items()]
        return "\n".join(lines)


StartOnce = Callable[[Mapping[str, Any], str], StartupTimes]
"""Starts one process with the engine's arguments and a cache directory."""


def run_startup(
    engine_arguments: Mapping[str, Any],
    *,
    num_iters_cold: int,
    num_iters_warm: int,
    num_iters_warmup: int = 1,
    start_once: StartOnce | None = None,
) -> StartupResult:
    """Measures cold starts, each with its own empty cache, then warm ones that share a cache.

    `num_iters_warmup` processes fill the shared cache and are not counted. The page cache of the operating system
    is left as it is, so weight files may come from memory in both.
    """
    start_once = start_once or start_process
    cold = []
    for _ in range(num_iters_cold):
        with tempfile.TemporaryDirectory(prefix="jaxllm-cold-") as cache:
            cold.append(start_once(engine_arguments, cache))
    with tempfile.TemporaryDirectory(prefix="jaxllm-warm-") as cache:
        if num_iters_warm:
            for _ in range(num_iters_warmup):
                start_once(engine_arguments, cache)
        warm = [start_once(engine_arguments, cache) for _ in range(num_iters_warm)]
    return StartupResult(model_id=engine_arguments["model"], cold=cold, warm=warm)


def start_process(engine_arguments: Mapping[str, Any], cache_directory: str) -> StartupTimes:
    """Runs `jaxllm.bench.startup_child` in a process of its own."""
    result = Path(cache_directory) / "startup-times.json"
    environment = os.environ | {"JAXLLM_CACHE_DIR": cache_directory}
    arguments = dict(engine_arguments) | {"compilation_cache_dir": str(Path(cache_directory) / "compiled")}
    # time.time() because monotonic clocks need not agree between processes.
    child = [sys.executable, "-m", "jaxllm.bench.startup_child", json.dumps(arguments), repr(time.time()), str(result)]
    finished = subprocess.run(child, env=environment, stdout=sys.stderr, check=False)
    if finished.returncode != 0:
        raise JaxLLMError(f"a process that starts the engine ended with status {finished.returncode}; see its output")
    return StartupTimes(**json.loads(result.read_text(encoding="utf-8")))


def _summed_up(kind: str, times: Sequence[StartupTimes]) -> dict[str, Any]:
    if not times:
        return {}
    values: dict[str, Any] = {}
    for name in ("startup", "compilation"):
        seconds = [getattr(one, name) for one in times]
        values[f"avg_{kind}_{name}_time"] = sum(seconds) / len(seconds)
        values[f"{kind}_{name}_times"] = seconds
        values[f"{kind}_{name}_percentiles"] = percentiles(seconds)
    values[f"{kind}_times_to_first_token"] = [one.time_to_first_token for one in times]
    values[f"{kind}_phases"] = _median_phases(times)
    return values


def _median_phases(times: Sequence[StartupTimes]) -> dict[str, float]:
    names = dict.fromkeys(name for one in times for name in one.phases)
    return {name: median([one.phases[name] for one in times if name in one.phases]) or 0.0 for name in names}
