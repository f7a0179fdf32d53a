from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner

from jaxllm.cli.app import app
from jaxllm.cli.models import print_models


@dataclass
class Row:
    name: str
    is_installed: bool
    description: str = "A model"
    num_bytes: int = 98_000_000
    license: str = "MIT"
    install_command: str = "pip install --no-deps a-model==1"


def test_installed_model_is_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Any] = [Row("a", is_installed=True)]
    print_models(rows)
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "model", "size", "licence", "installed"]
    assert row.split() == ["a", "A", "model", "98", "MB", "MIT", "yes"]


def test_missing_model_comes_with_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Any] = [Row("a", is_installed=False)]
    print_models(rows)
    assert capsys.readouterr().out.splitlines()[-2:] == ["To install a:", "  pip install --no-deps a-model==1"]


def test_command_lists_the_default_model() -> None:
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 0
    assert "smollm2-135m" in result.output
