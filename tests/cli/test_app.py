from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from jaxllm import __version__
from jaxllm.cli import app as app_module
from jaxllm.cli.app import app, main
from jaxllm.errors import ModelNotFoundError

RUNNER = CliRunner()


@pytest.mark.parametrize("flag", ["--version", "-v"])
def test_version_is_printed(flag: str) -> None:
    result = RUNNER.invoke(app, [flag])
    assert (result.exit_code, result.output) == (0, f"{__version__}\n")


def test_help_lists_the_commands() -> None:
    result = RUNNER.invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "models" in result.output
    assert "bench" in result.output


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """The exit status of the program."""
    monkeypatch.setattr(sys, "argv", ["jaxllm", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        main()
    return exit_info.value.code


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModelNotFoundError("no model at /nowhere"), "no model at /nowhere"),
        (FileNotFoundError(2, "No such file or directory", "/x/y"), "[Errno 2] No such file or directory: '/x/y'"),
    ],
)
def test_mistake_is_one_line_without_traceback(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(app_module, "app", fail)
    assert run_main(monkeypatch) == 1
    assert capsys.readouterr().err == f"jaxllm: error: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "jaxllm: error: No such command 'nothing'."),
        (["bench", "latncy"], "jaxllm bench: error: No such command 'latncy'. Did you mean 'latency'?"),
        (["bench", "latency", "--modl", "x"], "jaxllm bench latency: error: No such option: --modl"),
    ],
)
def test_usage_mistake_is_one_line_with_status_2(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, *arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(message)


def test_no_command_prints_the_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, "bench") == 2
    assert "throughput" in capsys.readouterr().err


def test_success_is_status_0(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not run_main(monkeypatch, "--version")


def test_flags_that_a_benchmark_would_ignore_end_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "bench", "throughput", "--dataset-path", "x.json") == 1
    assert capsys.readouterr().err == "jaxllm: error: --dataset-path needs --dataset-name sharegpt, got random\n"
