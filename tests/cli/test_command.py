from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from typer import Option, Typer
from typer.testing import CliRunner, Result

from jaxllm.cli.command import FlexibleCommand, ModelCommand
from jaxllm.cli.options import EngineOptions, json_option, takes_options
from jaxllm.errors import ValidationError

RUNNER = CliRunner()


@dataclass(frozen=True, kw_only=True)
class Options(EngineOptions):
    api_key: Annotated[list[str] | None, Option(help="Keys.")] = None
    template_kwargs: Annotated[dict[str, Any] | None, json_option(help="Values.")] = None


def invoke(*flags: str, cls: type[FlexibleCommand] = ModelCommand) -> tuple[Result, list[Options]]:
    received: list[Options] = []
    app = Typer(rich_markup_mode=None)

    @app.command(cls=cls)
    @takes_options(Options)
    def command(options: Options) -> None:
        """Does a thing."""
        received.append(options)

    return RUNNER.invoke(app, flags), received


def parse(*flags: str) -> Options:
    result, received = invoke(*flags)
    assert result.exit_code == 0, result.output
    return received[0]


def refuse(*flags: str, cls: type[FlexibleCommand] = ModelCommand) -> str:
    result, _ = invoke(*flags, cls=cls)
    assert result.exit_code == 2, result.output
    return result.output.splitlines()[-1]


@pytest.mark.parametrize(
    "flags",
    [
        ["m"],
        ["--model", "m"],
        ["m", "--model", "m"],
        ["--dtype", "auto", "m"],
        ["--served-model-name", "a", "--", "m"],
    ],
)
def test_model_may_come_without_its_flag(flags: list[str]) -> None:
    assert parse(*flags).model == "m"


def test_two_models_are_refused() -> None:
    assert refuse("a", "--model", "b") == "Error: model is given twice: 'a' and --model 'b'"


def test_two_positional_models_are_refused() -> None:
    assert refuse("a", "b") == "Error: Got unexpected extra argument(s) (a b)"


def test_other_commands_take_no_positional_model() -> None:
    assert refuse("a", cls=FlexibleCommand) == "Error: Got unexpected extra argument(s) (a)"


def test_lists_and_mappings_arrive() -> None:
    options = parse("--api_key", "a", "b", "--template_kwargs.x", "1", "--served-model-name", "n", "o")
    assert (options.api_key, options.template_kwargs) == (["a", "b"], {"x": 1})
    assert options.engine_arguments()["served_model_name"] == ["n", "o"]


def test_what_is_not_given_is_none() -> None:
    options = parse()
    assert (options.api_key, options.template_kwargs, options.served_model_name) == (None, None, None)


def test_config_file_lies_under_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("model: m\nmax_model_len: 8k\nseed: 3\napi-key: [a, b]\n", encoding="utf-8")
    options = parse("--config", str(path), "--seed", "4")
    assert (options.model, options.max_model_len, options.seed, options.api_key) == ("m", "8k", 4, ["a", "b"])


def test_positional_model_wins_over_the_config_file(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("model: m\n", encoding="utf-8")
    assert parse("n", "--config", str(path)).model == "n"


def test_mistake_in_a_config_file_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("sed: 3\n", encoding="utf-8")
    assert refuse("--config", str(path)) == f"Error: {path}: unknown key 'sed'; did you mean seed?"


def test_value_of_a_config_file_is_checked_like_a_flag(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("max-num-seqs: many\n", encoding="utf-8")
    assert "Invalid value for '--max-num-seqs'" in refuse("--config", str(path))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--pipeline-parallel-size", "1"], {"pipeline_parallel_size": 1}),
        (["-pp", "2", "--kv_cache_dtype", "fp8"], {"pipeline_parallel_size": 2, "kv_cache_dtype": "fp8"}),
        (["--enable-lora"], {"enable_lora": True}),
        (["--no-enable-lora"], {"enable_lora": False}),
        (["-q", "awq"], {"quantization": "awq"}),
    ],
)
def test_engine_arguments_of_vllm_are_passed_on(flags: list[str], expected: dict[str, Any]) -> None:
    assert parse(*flags).engine_arguments() == {"model": "smollm2-135m", "seed": 0, **expected}


def test_engine_argument_that_would_change_something_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match=r"^quantization is not supported yet: leave it at None, got 'awq'$"):
        parse("--quantization", "awq").engine_config()


def test_engine_configuration_is_made_of_the_flags() -> None:
    config = parse("m", "--block-size", "32", "--override-generation-config.temperature", "0.5").engine_config()
    assert (config.model, config.page_size, config.override_generation_config) == ("m", 32, {"temperature": 0.5})


def test_unknown_flag_comes_with_near_matches() -> None:
    assert refuse("--modl", "m") == "Error: No such option: --modl (Possible options: --model)"


def test_broken_json_is_a_usage_error() -> None:
    assert refuse("--template-kwargs", "{") == "Error: --template-kwargs must be a JSON object, got {"


def test_help_on_a_word_shows_the_flags_that_have_it() -> None:
    result, _ = invoke("--help=max_num")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines() if line.startswith("--")] == [
        "--max-num-seqs",
        "--max-num-batched-tokens",
    ]


def test_help_on_all_shows_every_flag_but_hidden_ones() -> None:
    result, _ = invoke("--help=all")
    assert "--api-key" in result.output
    assert "--config" in result.output
    assert "other-engine-arguments" not in result.output


def test_help_on_an_unknown_word_is_a_usage_error() -> None:
    assert refuse("--help=nothing") == "Error: no flag has 'nothing' in its name"
