from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import pytest
from typer import Option, Typer
from typer.testing import CliRunner

from jaxllm.cli.command import FlexibleCommand
from jaxllm.cli.options import OTHER_ENGINE_ARGUMENTS, EngineOptions, takes_options
from jaxllm.config import EngineConfig

RUNNER = CliRunner()


@dataclass(frozen=True, kw_only=True)
class Options(EngineOptions):
    num_things: Annotated[int, Option(min=1, help="How many things.")] = 3


def parse(*flags: str) -> Options:
    """What a command with these flags receives."""
    received: list[Options] = []
    app = Typer()

    @app.command(cls=FlexibleCommand)
    @takes_options(Options)
    def command(options: Options) -> None:
        """Does a thing."""
        received.append(options)

    result = RUNNER.invoke(app, flags)
    assert result.exit_code == 0, result.output
    return received[0]


def test_defaults_leave_everything_to_the_engine() -> None:
    assert parse().engine_arguments() == {"model": "smollm2-135m", "seed": 0}


def test_given_flags_become_engine_arguments() -> None:
    flags = ["--model", "x", "--load-format", "dummy", "--max-model-len", "8k", "--skip-tokenizer-init"]
    assert parse(*flags, "--tensor-parallel-size", "2").engine_arguments() == {
        "model": "x",
        "load_format": "dummy",
        "max_model_len": "8k",
        "skip_tokenizer_init": True,
        "tensor_parallel_size": 2,
        "seed": 0,
    }


@pytest.mark.parametrize("flag", ["--gpu-memory-utilization", "--device-memory-utilization"])
def test_memory_share_goes_by_two_names(flag: str) -> None:
    assert parse(flag, "0.5").device_memory_utilization == 0.5


@pytest.mark.parametrize(
    ("flag", "expected"), [("--enable-prefix-caching", True), ("--no-enable-prefix-caching", False)]
)
def test_prefix_caching_can_be_turned_on_and_off(flag: str, expected: bool) -> None:
    assert parse(flag).enable_prefix_caching is expected


def test_fields_of_a_subclass_are_flags_but_no_engine_arguments() -> None:
    options = parse("--num-things", "5")
    assert options.num_things == 5
    assert "num_things" not in options.engine_arguments()


def test_engine_flags_are_the_fields_of_the_engine_configuration() -> None:
    flags = {field.name for field in dataclasses.fields(EngineOptions)} - {OTHER_ENGINE_ARGUMENTS}
    assert flags == {field.name for field in dataclasses.fields(EngineConfig)}


def test_engine_accepts_the_strings_that_flags_give() -> None:
    options = parse("--max-model-len", "2048", "--kv-cache-memory-bytes", "1GiB")
    config = EngineConfig(**options.engine_arguments())
    assert (config.max_model_len, config.kv_cache_memory_bytes) == (2048, 2**30)
