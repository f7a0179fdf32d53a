from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from jaxllm import __version__
from jaxllm.cli import app as app_module
from jaxllm.cli.app import app, main
from jaxllm.errors import ModelNotFoundError

RUNNER = CliRunner()


def test_version_is_printed() -> None:
    result = RUNNER.invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"{__version__}\n")


def test_help_lists_the_commands() -> None:
    result = RUNNER.invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "models" in result.output
    assert "bench" in result.output


def test_user_mistake_is_one_line_without_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ModelNotFoundError("no model at /nowhere")

    monkeypatch.setattr(app_module, "app", fail)
    with pytest.raises(SystemExit, match="1"):
        main()
    assert capsys.readouterr().err == "jaxllm: error: no model at /nowhere\n"


def test_flags_that_a_benchmark_would_ignore_end_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["jaxllm", "bench", "throughput", "--dataset-path", "x.json"])
    with pytest.raises(SystemExit, match="1"):
        main()
    assert capsys.readouterr().err == "jaxllm: error: --dataset-path needs --dataset-name sharegpt, got random\n"
