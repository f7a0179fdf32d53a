from __future__ import annotations

import pytest

from jaxllm.cli.arguments import Edit, Flag, apply_edits, parse_value, read_arguments
from jaxllm.errors import ValidationError

FLAGS = (
    Flag(name="max_model_len", spellings=("--max-model-len",), kind="value"),
    Flag(name="tensor_parallel_size", spellings=("--tensor-parallel-size", "-tp"), kind="value"),
    Flag(name="api_key", spellings=("--api-key",), kind="values"),
    Flag(name="stream", spellings=("--stream",), negations=("--no-stream",), kind="switch"),
    Flag(name="overrides", spellings=("--overrides",), kind="mapping"),
    Flag(name="overrides", spellings=("--nnodes",), kind="value", key="nnodes"),
    Flag(name="overrides", spellings=("--lora",), negations=("--no-lora",), kind="switch", key="lora"),
)


def rewrite(*arguments: str) -> list[str]:
    return read_arguments(arguments, FLAGS).as_command_line(FLAGS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--max_model_len", "8k"], ["--max-model-len", "8k"]),
        (["--max_model_len=a_b"], ["--max-model-len", "a_b"]),
        (["--max-model-len", "-1"], ["--max-model-len", "-1"]),
        (["-tp", "2"], ["--tensor-parallel-size", "2"]),
        (["-tp=2"], ["--tensor-parallel-size", "2"]),
        (["--stream"], ["--stream"]),
        (["--no_stream"], ["--no-stream"]),
        (["--stream", "--no-stream"], ["--no-stream"]),
    ],
)
def test_spellings_become_the_canonical_flag(arguments: list[str], expected: list[str]) -> None:
    assert rewrite(*arguments) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["--api-key", "a", "b", "--stream", "--api-key", "c"],
        ["--api_key", "a", "--stream", "--api-key=b", "--api-key", "c"],
        ["--api-key", "a", "b", "c", "--stream"],
        ["--api-key", '["a", "b"]', "c", "--stream"],
    ],
)
def test_values_follow_one_flag_or_several(arguments: list[str]) -> None:
    assert rewrite(*arguments) == ["--api-key", "a", "--api-key", "b", "--api-key", "c", "--stream"]


def test_first_value_may_look_like_a_flag() -> None:
    assert rewrite("--api-key", "-secret") == ["--api-key", "-secret"]


@pytest.mark.parametrize("text", ["[1]", "[a]", '"a"'])
def test_value_that_is_no_list_of_strings_is_kept(text: str) -> None:
    assert rewrite("--api-key", text) == ["--api-key", text]


def test_double_dash_ends_the_values() -> None:
    assert rewrite("--api-key", "a", "--", "model") == ["--api-key", "a", "--", "model"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--overrides", '{"a": 1}'], '{"a": 1}'),
        (["--overrides.a", "0.5"], '{"a": 0.5}'),
        (["--overrides.a=x_y"], '{"a": "x_y"}'),
        (["--overrides.a.b_c", "true", "--overrides.a.d", "null"], '{"a": {"b_c": true, "d": null}}'),
        (["--overrides", '{"a": 1, "b": 2}', "--overrides.a", "3"], '{"a": 3, "b": 2}'),
        (["--overrides.a", "3", "--overrides", '{"b": 2}'], '{"b": 2}'),
        (["--overrides.a+", "1,x", "--overrides.a+", "2"], '{"a": [1, "x", 2]}'),
        (["--overrides.a", "1", "--overrides.a+", "2"], '{"a": [1, 2]}'),
        (["--nnodes", "1", "--overrides.a", "2"], '{"nnodes": 1, "a": 2}'),
        (["--lora"], '{"lora": true}'),
        (["--no-lora"], '{"lora": false}'),
    ],
)
def test_mapping_is_one_json_object(arguments: list[str], expected: str) -> None:
    assert rewrite(*arguments) == ["--overrides", expected]


@pytest.mark.parametrize("text", ["[1]", "x", "{"])
def test_mapping_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match=r"^--overrides must be a JSON object, got "):
        rewrite("--overrides", text)


def test_entry_below_a_value_that_is_no_object_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"^--overrides.a.b needs an object at a, got 1$"):
        apply_edits("--overrides", [Edit(path=("a",), value=1), Edit(path=("a", "b"), value=2)])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--unknown_flag", "x"], ["--unknown-flag", "x"]),
        (["--stream=yes"], ["--stream=yes"]),
        (["--max-model-len.x", "1"], ["--max-model-len.x", "1"]),
        (["--max-model-len"], ["--max-model-len"]),
        (["a_model"], ["a_model"]),
    ],
)
def test_what_is_not_understood_is_left_to_typer(arguments: list[str], expected: list[str]) -> None:
    assert read_arguments(arguments, FLAGS).rest == expected


@pytest.mark.parametrize(("text", "expected"), [("1", 1), ("1.5", 1.5), ("true", True), ("a,b", "a,b"), ("[1]", [1])])
def test_value_is_json_where_it_can_be(text: str, expected: object) -> None:
    assert parse_value(text) == expected
