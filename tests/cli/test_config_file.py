from __future__ import annotations

from pathlib import Path

import pytest

from jaxllm.cli.arguments import Flag, read_arguments
from jaxllm.cli.config_file import add_config_file
from jaxllm.errors import ValidationError

FLAGS = (
    Flag(name="max_model_len", spellings=("--max-model-len",), kind="value"),
    Flag(name="page_size", spellings=("--page-size", "--block-size"), kind="value"),
    Flag(name="api_key", spellings=("--api-key",), kind="values"),
    Flag(name="stream", spellings=("--stream",), negations=("--no-stream",), kind="switch"),
    Flag(name="overrides", spellings=("--overrides",), kind="mapping"),
    Flag(name="others", spellings=("--others",), kind="mapping"),
    Flag(name="others", spellings=("--nnodes",), kind="value", key="nnodes"),
)


def rewrite(tmp_path: Path, yaml: str, *arguments: str) -> list[str]:
    path = tmp_path / "flags.yaml"
    path.write_text(yaml, encoding="utf-8")
    given = read_arguments(arguments, FLAGS)
    add_config_file(given, str(path), FLAGS)
    return given.as_command_line(FLAGS)


@pytest.mark.parametrize("key", ["max-model-len", "max_model_len"])
def test_keys_have_dashes_or_underscores(tmp_path: Path, key: str) -> None:
    assert rewrite(tmp_path, f"{key}: 8k") == ["--max-model-len", "8k"]


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("block-size: 16", ["--page-size", "16"]),
        ("api-key: [a, 1]", ["--api-key", "a", "--api-key", "1"]),
        ("api-key: a", ["--api-key", "a"]),
        ("stream: true", ["--stream"]),
        ("stream: no", ["--no-stream"]),
        ("max-model-len: true", ["--max-model-len", "true"]),
        ("overrides: {a: {b: 1}}", ["--overrides", '{"a": {"b": 1}}']),
        ("nnodes: 1", ["--others", '{"nnodes": 1}']),
        ("stream:", []),
        ("# nothing", []),
    ],
)
def test_values_become_flags(tmp_path: Path, yaml: str, expected: list[str]) -> None:
    assert rewrite(tmp_path, yaml) == expected


@pytest.mark.parametrize(
    ("yaml", "arguments", "expected"),
    [
        ("max-model-len: 1", ["--max-model-len", "2"], ["--max-model-len", "2"]),
        ("api-key: [a, b]", ["--api-key", "c"], ["--api-key", "c"]),
        ("stream: true", ["--no-stream"], ["--no-stream"]),
        ("overrides: {a: 1}", ["--overrides", '{"b": 2}'], ["--overrides", '{"b": 2}']),
        ("overrides: {a: 1, b: 1}", ["--overrides.b", "2"], ["--overrides", '{"a": 1, "b": 2}']),
    ],
)
def test_command_line_wins(tmp_path: Path, yaml: str, arguments: list[str], expected: list[str]) -> None:
    assert rewrite(tmp_path, yaml, *arguments) == expected


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("max-modle-len: 1", r"flags.yaml: unknown key 'max-modle-len'; did you mean max-model-len\?$"),
        ("zzz: 1", r"flags.yaml: unknown key 'zzz'$"),
        ("max-model-len: [1]", r"flags.yaml: max-model-len must be one value, got \[1\]$"),
        ("stream: 1", r"flags.yaml: stream must be true or false, got 1$"),
        ("api-key: [[1]]", r"flags.yaml: api-key must be a value or a list of values, got \[\[1\]\]$"),
        ("overrides: 1", r"flags.yaml: overrides must be a mapping, got 1$"),
        ("- a", r"flags.yaml must hold a mapping from flags to values, got a list$"),
        ("a: [", r"flags.yaml is no YAML: while parsing"),
    ],
)
def test_mistake_is_named_with_its_file(tmp_path: Path, yaml: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        rewrite(tmp_path, yaml)


def test_missing_file_is_named() -> None:
    with pytest.raises(ValidationError, match=r"^--config /nowhere/x.yaml can't be read: No such file or directory$"):
        add_config_file(read_arguments([], FLAGS), "/nowhere/x.yaml", FLAGS)
