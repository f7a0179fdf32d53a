from pathlib import Path

import pytest

from jaxllm.config import EngineConfig
from jaxllm.runner import defaults
from jaxllm.runner.defaults import StepLimits, choose_dtype, choose_limits


@pytest.mark.parametrize(
    ("seqs", "tokens", "platform", "expected"),
    [
        (None, None, "cpu", StepLimits(32, 512)),
        (None, None, "gpu", StepLimits(512, 8192)),
        (7, 70, "cpu", StepLimits(7, 70)),
        (None, 16, "cpu", StepLimits(16, 16)),
        (1000, None, "cpu", StepLimits(1000, 1000)),
        (4, None, "gpu", StepLimits(4, 8192)),
    ],
)
def test_limits_that_are_not_given_suit_the_platform(
    seqs: int | None, tokens: int | None, platform: str, expected: StepLimits
) -> None:
    config = EngineConfig(model="m", max_num_seqs=seqs, max_num_batched_tokens=tokens)
    assert choose_limits(config, platform) == expected


@pytest.mark.parametrize(
    ("wanted", "saved", "platform", "expected"),
    [
        ("float32", "bfloat16", "gpu", "float32"),
        ("float16", "float32", "cpu", "float16"),
        ("auto", "float16", "gpu", "float16"),
        ("auto", "bfloat16", "gpu", "bfloat16"),
        ("auto", "float32", "gpu", "bfloat16"),
        ("auto", "float64", "tpu", "bfloat16"),
    ],
)
def test_dtype_follows_the_user_then_the_checkpoint(wanted: str, saved: str, platform: str, expected: str) -> None:
    assert choose_dtype(wanted, saved, platform) == expected


@pytest.mark.parametrize(("is_fast", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_a_cpu_runs_what_it_is_fast_at(monkeypatch: pytest.MonkeyPatch, is_fast: bool, expected: str) -> None:
    monkeypatch.setattr(defaults, "_has_fast_bfloat16", lambda: is_fast)
    assert choose_dtype("auto", "float16", "cpu") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512_bf16\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("", False),
    ],
)
def test_the_processor_s_flags_tell_of_fast_bfloat16(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: bool
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: text)
    assert defaults._has_fast_bfloat16() is expected


def test_a_system_without_cpuinfo_has_no_fast_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: object) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", fail)
    assert defaults._has_fast_bfloat16() is False
