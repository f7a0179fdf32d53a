"""The keyword arguments of JaxLLM: aliases, legacy names, vLLM's names, and typing errors."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import pytest

from jaxllm.async_llm import AsyncJaxLLM
from jaxllm.config import EngineConfig
from jaxllm.engine_args import HARMLESS_VALUES, AsyncEngineArgs, EngineArgs, make_engine_config
from jaxllm.errors import ValidationError
from jaxllm.llm import JaxLLM


def test_vllm_names_are_aliases():
    config = make_engine_config("m", gpu_memory_utilization=0.5, block_size=32)
    assert (config.device_memory_utilization, config.page_size) == (0.5, 32)


def test_alias_and_name_may_agree():
    assert make_engine_config("m", page_size=32, block_size=32).page_size == 32


def test_alias_and_name_must_not_disagree():
    with pytest.raises(ValidationError, match="block_size is another name of page_size: give one, got 16 and 32"):
        make_engine_config("m", page_size=32, block_size=16)


def test_model_may_be_a_path():
    assert make_engine_config(Path("dir/model")).model == "dir/model"


def test_unknown_name_is_a_type_error_with_near_misses():
    with pytest.raises(TypeError, match="'max_modle_len'; did you mean max_model_len"):
        make_engine_config("m", max_modle_len=5)


def test_unknown_name_without_near_miss():
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'zzzz'$"):
        make_engine_config("m", zzzz=5)


@pytest.mark.parametrize("name", HARMLESS_VALUES)
def test_vllm_argument_passes_only_where_it_changes_nothing(name):
    for value in HARMLESS_VALUES[name]:
        make_engine_config("m", **{name: value})
    with pytest.raises(ValidationError, match=f"{name} is not supported yet: leave it at .* got 'other'"):
        make_engine_config("m", **{name: "other"})


def test_zero_is_not_false():
    with pytest.raises(ValidationError, match="cpu_offload_gb is not supported yet: leave it at 0, got False"):
        make_engine_config("m", cpu_offload_gb=False)
    make_engine_config("m", cpu_offload_gb=0.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task", "generate"),
        ("task", "auto"),
        ("max_seq_len_to_capture", 8192),
        ("disable_async_output_proc", True),
        ("disable_log_requests", True),
    ],
)
def test_legacy_name_passes_with_a_warning_at_the_caller(name, value):
    with pytest.warns(DeprecationWarning, match=f"{name} is deprecated") as caught:
        make_engine_config("m", **{name: value})
    assert caught[0].filename == __file__


def test_task_of_another_kind_is_refused():
    with pytest.raises(ValidationError, match="task must be 'auto' or 'generate', got 'embed'"):
        make_engine_config("m", task="embed")


def test_defaults_warn_about_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_engine_config("m")


def test_engine_args_take_vllms_names():
    arguments = EngineArgs("m", gpu_memory_utilization=0.5)
    assert isinstance(arguments, EngineConfig)
    assert (arguments.model, arguments.device_memory_utilization) == ("m", 0.5)
    assert EngineArgs(model=Path("dir/m")).model == "dir/m"
    assert dataclasses.replace(arguments, seed=3).seed == 3
    with pytest.raises(TypeError, match="unexpected keyword argument 'zzzz'"):
        EngineArgs("m", zzzz=5)
    with pytest.raises(ValidationError, match="page_size must be a power of two, got 17"):
        EngineArgs("m", block_size=17)


def test_async_engine_args_keep_statistics():
    assert not AsyncEngineArgs("m").disable_log_stats
    assert AsyncEngineArgs("m", disable_log_stats=True).disable_log_stats
    assert EngineArgs("m").disable_log_stats


@pytest.fixture
def started(monkeypatch):
    """The configurations of engines that would have been built."""
    configs: list[EngineConfig] = []
    for kind in (JaxLLM, AsyncJaxLLM):
        monkeypatch.setattr(kind, "_start", lambda self, config, *_: configs.append(config))
    return configs


def test_tokenizer_as_a_second_position_warns_at_the_caller(started):
    with pytest.warns(DeprecationWarning, match="second positional argument is deprecated: write tokenizer=") as caught:
        JaxLLM("m", "t", seed=1)
    assert caught[0].filename == __file__
    assert (started[0].tokenizer, started[0].seed) == ("t", 1)


def test_other_positions_are_refused(started):
    with pytest.raises(TypeError, match="takes the model, then keyword arguments; got 2 more positional arguments"):
        JaxLLM("m", "t", "slow")
    with pytest.raises(TypeError, match="got multiple values for argument 'tokenizer'"):
        JaxLLM("m", "t", tokenizer="t")
    assert started == []


@pytest.mark.parametrize("kind", [JaxLLM, AsyncJaxLLM])
def test_from_engine_args(started, kind):
    arguments = EngineArgs("m", block_size=32)
    assert isinstance(kind.from_engine_args(arguments), kind)
    kind.from_engine_args({"model": "m", "block_size": 32})
    assert started[0] is arguments
    assert started[1].page_size == 32


def test_only_the_async_engine_keeps_statistics_by_default(started):
    JaxLLM("m")
    AsyncJaxLLM("m")
    AsyncJaxLLM("m", disable_log_stats=True)
    assert [config.disable_log_stats for config in started] == [True, False, True]


@pytest.mark.parametrize("seconds", [0, -1.0, "long", None, float("nan")])
def test_stall_seconds_must_be_a_time(seconds):
    with pytest.raises(ValidationError, match="stall_seconds must be"):
        AsyncJaxLLM("m", stall_seconds=seconds)
