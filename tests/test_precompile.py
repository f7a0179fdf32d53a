"""Programs compiled ahead, without weights: what a later start finds, and what a machine's first start measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jaxllm.blueprint import Blueprint
from jaxllm.cli.app import app
from jaxllm.engine_args import make_engine_config
from jaxllm.models.loading.model_files import ModelFiles
from jaxllm.runner.device_memory import DeviceMemory
from jaxllm.runner.executables import ExecutableStore
from jaxllm.runner.memory import CacheSize
from jaxllm.runner.program_memory import ProgramMemory
from tests.integration.helpers import greedy_outputs, start_tiny
from tests.references.reference import load_reference

NAME = "llama_gqa"
STEPS = {"mixed_64x8", "decode_8x8", "decode_1x1"}
FLAGS = ["--max-num-seqs", "8", "--max-num-batched-tokens", "64", "--max-model-len", "96", "--dtype", "float32"]


@pytest.fixture
def blueprint(tmp_path: Path) -> Blueprint:
    config = make_engine_config(
        load_reference(NAME).directory,
        max_num_seqs=8,
        max_num_batched_tokens=64,
        max_model_len=96,
        dtype="float32",
        device="cpu",
        compilation_cache_dir=str(tmp_path),
    )
    return Blueprint.make(config, ModelFiles.find(config))


def compile_tiny(directory: Path) -> list[str]:
    """The lines that the command prints."""
    model = str(load_reference(NAME).directory)
    flags = ["--device", "cpu", "--load-format", "dummy", "--compilation-cache-dir", str(directory)]
    result = CliRunner().invoke(app, ["compile", model, *FLAGS, *flags], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_a_start_with_the_same_flags_compiles_nothing(tmp_path: Path, monkeypatch, caplog) -> None:
    lines = compile_tiny(tmp_path)
    names = [line.split()[0] for line in lines[1:-1]]
    assert lines[0].split()[0] == "program"
    assert set(names) >= STEPS
    assert lines[-1].startswith(f"{len(names)} programs compiled, 0 in the cache already, in ")

    again = compile_tiny(tmp_path)
    assert all(line.split()[1] == "cached" for line in again[1:-1])
    assert again[-1].startswith(f"0 programs compiled, {len(names)} in the cache already, in ")

    def refuse(*_: Any) -> None:
        raise AssertionError("a program was compiled")

    monkeypatch.setattr(ExecutableStore, "compile", refuse)
    reference = load_reference(NAME)
    with caplog.at_level("INFO"), start_tiny(NAME, compilation_cache_dir=str(tmp_path)) as llm:
        assert greedy_outputs(llm, reference) == reference.outputs
    assert f"(0 compiled, {len(names)} cached)" in caplog.text


def test_memory_of_programs_does_not_depend_on_the_pool(blueprint: Blueprint) -> None:
    def measure(num_pages: int) -> ProgramMemory:
        programs = blueprint._programs(CacheSize(num_pages=num_pages, max_model_len=96))
        lowers = programs.lowers(programs.largest).values()
        return ProgramMemory.in_turn(ProgramMemory.of(lower().compile()) for lower in lowers)

    assert measure(64) == measure(1024)


def test_memory_is_measured_once_and_then_read(blueprint: Blueprint, monkeypatch) -> None:
    measured = blueprint.measure_largest_programs()
    assert measured.temporaries > 0
    monkeypatch.setattr(ProgramMemory, "of", never("the program was compiled again"))
    assert blueprint.measure_largest_programs() == measured


def test_the_pool_takes_what_measured_programs_leave(blueprint: Blueprint) -> None:
    measured = ProgramMemory(temporaries=1000, outputs=100, code=10)
    memory = DeviceMemory(total=1 << 20, limit=1 << 20, in_use=0)
    device = dataclasses.replace(blueprint, memory=memory)
    plan = dataclasses.replace(device.plan_memory(measured), most_cache=None)
    usable = int((1 << 20) * 0.92)
    assert plan.programs == 1210
    assert plan.cache == usable - plan.weights - plan.slots - 1210
    assert plan.weights == sum(target.num_bytes for target in blueprint.targets)
    pages = device.size_cache(plan).num_pages
    assert pages == min(plan.cache // blueprint.page_bytes, 8 * 6 + 1)


def never(message: str) -> Callable[..., Any]:
    def fail(*_: Any) -> None:
        raise AssertionError(message)

    return fail
