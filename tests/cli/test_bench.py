from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import jaxllm.bench.startup
from jaxllm.bench.startup import StartupResult, StartupTimes
from jaxllm.cli.app import app
from jaxllm.errors import ValidationError
from tests.bench.helpers import FakeLLM

RUNNER = CliRunner()


class FakeTokenizer:
    def encode(self, text: str) -> list[int]:
        return list(range(len(text.split())))


class RecordedLLM(FakeLLM):
    """Keeps the last instance, for the test to look at."""

    last: RecordedLLM

    def __init__(self, **engine_arguments: Any) -> None:
        super().__init__(num_programs_to_compile=1)
        self.engine_arguments = engine_arguments
        RecordedLLM.last = self

    def get_tokenizer(self) -> FakeTokenizer:
        return FakeTokenizer()


@pytest.fixture(autouse=True)
def fake_llm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jaxllm.llm", types.SimpleNamespace(JaxLLM=RecordedLLM))


def run(*arguments: str) -> str:
    result = RUNNER.invoke(app, ["bench", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_throughput_runs_random_prompts_and_writes_json(tmp_path: Path) -> None:
    path = tmp_path / "throughput.json"
    flags = ["--num-prompts", "3", "--input-len", "5", "--output-len", "2", "--output-json", str(path)]
    output = run("throughput", "--model", "m", "--load-format", "dummy", *flags)
    assert output.startswith("Throughput: ")
    values = json.loads(path.read_text(encoding="utf-8"))
    assert (values["model_id"], values["num_requests"], values["total_num_tokens"]) == ("m", 3, 21)
    assert RecordedLLM.last.engine_arguments == {"model": "m", "load_format": "dummy", "seed": 0}
    assert RecordedLLM.last.is_shut_down


def test_throughput_runs_sharegpt(tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.json"
    turns = [{"value": "one two three four five"}, {"value": "a b c d"}]
    path.write_text(json.dumps([{"conversations": turns}]), encoding="utf-8")
    run("throughput", "--dataset-name", "sharegpt", "--dataset-path", str(path), "--num-prompts", "1")
    [call] = RecordedLLM.last.calls
    assert call["prompts"] == [{"prompt_token_ids": [0, 1, 2, 3, 4]}]
    assert [params.max_tokens for params in call["params"]] == [4]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset-path", "x"], "--dataset-path needs --dataset-name sharegpt, got random"),
        (["--dataset-name", "sharegpt"], "--dataset-name sharegpt needs --dataset-path, got none"),
        (
            ["--dataset-name", "sharegpt", "--dataset-path", "x", "--input-len", "5"],
            "--input-len is for --dataset-name random, got 5 with sharegpt",
        ),
        (
            ["--dataset-name", "sharegpt", "--dataset-path", "x", "--skip-tokenizer-init"],
            "--dataset-name sharegpt needs the tokenizer, got --skip-tokenizer-init",
        ),
    ],
)
def test_flags_that_contradict_the_dataset_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        run("throughput", *flags)


def test_unknown_dataset_is_refused() -> None:
    result = RUNNER.invoke(app, ["bench", "throughput", "--dataset-name", "other"])
    assert result.exit_code == 2
    assert "'other' is not one of 'random', 'sharegpt'" in result.output


def test_latency_repeats_one_batch_without_the_prefix_cache() -> None:
    flags = ["--batch-size", "2", "--input-len", "5", "--output-len", "3", "--num-iters-warmup", "1"]
    run("latency", "--model", "m", *flags, "--num-iters", "2")
    assert RecordedLLM.last.engine_arguments == {"model": "m", "enable_prefix_caching": False, "seed": 0}
    assert [len(call["prompts"]) for call in RecordedLLM.last.calls] == [2] * 5


def test_latency_can_keep_the_prefix_cache() -> None:
    run("latency", "--enable-prefix-caching", "--num-iters", "1", "--num-iters-warmup", "0")
    assert RecordedLLM.last.engine_arguments["enable_prefix_caching"] is True


@pytest.mark.parametrize("flag", ["--disable-detokenize", "--skip-tokenizer-init"])
def test_no_text_is_made_when_it_is_not_wanted_or_not_possible(flag: str) -> None:
    run("latency", flag, "--num-iters", "1", "--num-iters-warmup", "0")
    assert {params.detokenize for call in RecordedLLM.last.calls for params in call["params"]} == {False}


def test_engine_is_shut_down_when_measuring_fails() -> None:
    with pytest.raises(ValidationError, match="temperature"):
        run("throughput", "--temperature", "-1", "--num-prompts", "1")
    assert RecordedLLM.last.is_shut_down


def test_startup_passes_engine_arguments_and_writes_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = StartupTimes(startup=1.0, compilation=0.5, time_to_first_token=2.0, phases={})
    received: dict[str, Any] = {}

    def run_startup(engine_arguments: dict[str, Any], **counts: int) -> StartupResult:
        received.update(engine_arguments, **counts)
        return StartupResult(model_id="m", cold=[times], warm=[times])

    monkeypatch.setattr(jaxllm.bench.startup, "run_startup", run_startup)
    path = tmp_path / "startup.json"
    run("startup", "--model", "m", "--num-iters-cold", "1", "--num-iters-warm", "2", "--output-json", str(path))
    counts = {"num_iters_cold": 1, "num_iters_warmup": 1, "num_iters_warm": 2}
    assert received == {"model": "m", "seed": 0, **counts}
    assert json.loads(path.read_text(encoding="utf-8"))["avg_warm_startup_time"] == 1.0
