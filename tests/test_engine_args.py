"""The keyword arguments of JaxLLM: aliases, legacy names, vLLM's names, and typing errors."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from jaxllm.engine_args import HARMLESS_VALUES, make_engine_config
from jaxllm.errors import ValidationError


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
        ("swap_space", 4),
        ("max_seq_len_to_capture", 8192),
        ("disable_async_output_proc", True),
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
