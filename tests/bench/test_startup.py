from __future__ import annotations

import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jaxllm.bench import startup, startup_child
from jaxllm.bench.startup import StartupResult, StartupTimes, run_startup
from jaxllm.errors import JaxLLMError
from tests.bench.helpers import FakeLLM, make_output


def make_times(seconds: float = 1.0) -> StartupTimes:
    return StartupTimes(
        startup=seconds,
        compilation=seconds / 2,
        time_to_first_token=seconds + 1,
        phases={"import": 0.5, "compile": seconds / 2},
    )


class FakeStarts:
    """Remembers the cache directory of every start and what it held."""

    def __init__(self) -> None:
        self.caches: list[str] = []
        self.held: list[int] = []

    def __call__(self, engine_arguments: Mapping[str, Any], cache_directory: str) -> StartupTimes:
        assert engine_arguments == {"model": "m"}
        self.caches.append(cache_directory)
        self.held.append(len(list(Path(cache_directory).iterdir())))
        Path(cache_directory, str(len(self.caches))).touch()
        return make_times()


def test_cold_starts_find_an_empty_cache_and_warm_ones_a_filled_one() -> None:
    starts = FakeStarts()
    result = run_startup({"model": "m"}, num_iters_cold=2, num_iters_warm=2, start_once=starts)
    assert starts.held == [0, 0, 0, 1, 2]
    assert (len(result.cold), len(result.warm)) == (2, 2)
    assert starts.caches[2] == starts.caches[3] == starts.caches[4]


def test_no_warm_up_process_runs_without_warm_iterations() -> None:
    starts = FakeStarts()
    result = run_startup({"model": "m"}, num_iters_cold=1, num_iters_warm=0, start_once=starts)
    assert len(starts.caches) == 1
    assert result.warm == []


def test_caches_are_removed_afterwards() -> None:
    starts = FakeStarts()
    run_startup({"model": "m"}, num_iters_cold=1, num_iters_warm=1, start_once=starts)
    assert [cache for cache in starts.caches if Path(cache).exists()] == []


def test_json_has_vllm_keys_and_phases() -> None:
    values = StartupResult(model_id="m", cold=[make_times(2.0), make_times(4.0)], warm=[]).as_json()
    assert values.pop("cold_startup_percentiles")["50"] == 3.0
    assert values.pop("cold_compilation_percentiles")["50"] == 1.5
    assert values == {
        "model_id": "m",
        "avg_cold_startup_time": 3.0,
        "cold_startup_times": [2.0, 4.0],
        "avg_cold_compilation_time": 1.5,
        "cold_compilation_times": [1.0, 2.0],
        "cold_times_to_first_token": [3.0, 5.0],
        "cold_phases": {"import": 0.5, "compile": 1.5},
    }


def test_summary_has_a_line_per_phase() -> None:
    result = StartupResult(model_id="m", cold=[], warm=[make_times(2.0)])
    assert result.summary() == (
        "Warm start: 2.00 s, first token after 3.00 s of the process\n  import: 0.50 s\n  compile: 1.00 s"
    )


def test_child_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(JaxLLMError, match="a process that starts the engine ended with status 1"):
        startup.start_process({"model": "m"}, str(tmp_path))


def test_child_writes_what_the_parent_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OneTokenLLM(FakeLLM):
        def __init__(self, **engine_arguments: Any) -> None:
            super().__init__(startup_seconds={"load": 1.0, "compile": 2.0}, num_programs_to_compile=1)
            assert engine_arguments == {"model": "m"}

        def generate(self, prompts: Any, sampling_params: Any, use_tqdm: bool = True, stream: bool = False) -> Any:
            return [make_output(0, prompts, num_tokens=sampling_params.max_tokens)]

    monkeypatch.setitem(sys.modules, "jaxllm.llm", types.SimpleNamespace(JaxLLM=OneTokenLLM))
    monkeypatch.setitem(sys.modules, "jaxllm.build", types.SimpleNamespace())
    result = tmp_path / "result.json"
    startup_child.main({"model": "m"}, 0.0, result)
    times = StartupTimes(**json.loads(result.read_text(encoding="utf-8")))
    assert times.compilation == 2.0
    assert list(times.phases) == ["import", "load", "compile", "first_token", "other_programs"]
