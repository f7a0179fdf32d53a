from __future__ import annotations

import sys
import types
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from jaxllm.cli.app import app

MIB = 1 << 20


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations that the command compiled for."""
    seen: list[Any] = []

    def precompile(config: Any) -> list[Any]:
        seen.append(config)
        memory = SimpleNamespace(temporaries=1536 * MIB, outputs=MIB // 2)
        times = SimpleNamespace(trace=0.5, compile=12.25)
        return [
            SimpleNamespace(name="mixed_8192x256", memory=memory, times=times),
            SimpleNamespace(name="counts", memory=memory, times=None),
        ]

    monkeypatch.setitem(sys.modules, "jaxllm.precompile", types.SimpleNamespace(precompile=precompile))
    return seen


def test_prints_a_line_per_program_and_what_was_there_already(configs: list[Any]) -> None:
    result = CliRunner().invoke(app, ["compile", "m"], catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[:3] == [
        "program         trace s  compile s  temporaries MiB  outputs MiB",
        "mixed_8192x256     0.50      12.25           1536.0          0.5",
        "counts           cached                      1536.0          0.5",
    ]
    assert lines[3].startswith("1 programs compiled, 1 in the cache already, in ")


def test_takes_the_flags_of_the_engine(configs: list[Any]) -> None:
    flags = ["--load-format", "dummy", "--max-num-seqs", "4", "--gpu-memory-utilization", "0.5"]
    assert CliRunner().invoke(app, ["compile", "--model", "m", *flags]).exit_code == 0
    [config] = configs
    assert (config.model, config.load_format, config.max_num_seqs) == ("m", "dummy", 4)
    assert config.device_memory_utilization == 0.5
