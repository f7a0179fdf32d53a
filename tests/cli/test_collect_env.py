from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jaxllm import __version__
from jaxllm.cli import environment
from jaxllm.cli.app import app
from jaxllm.cli.environment import masked, read_packages, read_variables

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def memory_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's own setting, which must not reach other tests."""
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def test_everything_is_in_the_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "a").write_bytes(b"12345")
    monkeypatch.setenv("JAXLLM_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("JAXLLM_API_KEY", "hidden-value")
    result = RUNNER.invoke(app, ["collect-env", "--json"], catch_exceptions=False)
    values = json.loads(result.output)
    assert list(values) == ["system", "packages", "devices", "cache", "variables"]
    assert values["packages"]["jaxllm"] == __version__
    assert values["packages"]["jax"] == importlib.metadata.version("jax")
    assert values["devices"][0] == {"id": 0, "platform": "cpu", "kind": "cpu", "memory_bytes": None}
    assert values["cache"] == {"directory": str(tmp_path), "num_files": 1, "num_bytes": 5}
    assert values["variables"]["JAXLLM_API_KEY"] == "***"
    assert "hidden-value" not in result.output


def test_text_has_a_line_for_each_fact() -> None:
    lines = RUNNER.invoke(app, ["collect-env"], catch_exceptions=False).output.splitlines()
    assert lines[0] == "system:"
    assert f"  jaxllm: {__version__}" in lines
    assert "  0: id 0, platform cpu, kind cpu, memory_bytes -" in lines


def test_missing_package_has_no_version() -> None:
    assert read_packages(["no-such-package-here"]) == {"no-such-package-here": None}


def test_device_that_can_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("no\n driver")

    monkeypatch.setattr("jaxllm.runner.devices.list_devices", fail)
    assert environment.read_devices() == "RuntimeError: no driver"


def test_only_variables_that_matter_are_shown() -> None:
    given = {"XLA_FLAGS": "a", "HOME": "/root", "HF_TOKEN": "b", "LD_LIBRARY_PATH": "c", "XLAB": "d"}
    assert read_variables(given) == {"HF_TOKEN": "***", "LD_LIBRARY_PATH": "c", "XLA_FLAGS": "a"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("OPENAI_API_KEY", "sk", "***"),
        ("HF_TOKEN", "", ""),
        ("TOKENIZERS_PARALLELISM", "false", "false"),
        ("HF_ENDPOINT", "https://user:pass@hub.example/x", "https://***@hub.example/x"),
    ],
)
def test_secrets_are_masked(name: str, value: str, expected: str) -> None:
    assert masked(name, value) == expected


def test_cards_come_from_the_driver_s_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'A card, 1.2, 3 MiB'\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert environment.read_system()["nvidia"] == ["A card, 1.2, 3 MiB"]
