from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jaxllm.cli.app import app
from jaxllm.cli.inspect_model import _size
from jaxllm.errors import JaxLLMError
from tests.integration.helpers import needs_smollm2

CONFIGS = Path(__file__).resolve().parents[2] / "benchmarks" / "configs"
REFERENCES = Path(__file__).resolve().parents[1] / "references" / "data"
RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def memory_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's own setting, which must not reach other tests."""
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def inspect(*arguments: str) -> dict[str, Any]:
    result = RUNNER.invoke(app, ["inspect", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def llama(*flags: str) -> dict[str, Any]:
    return inspect(str(CONFIGS / "llama-3.1-8b"), "--device", "gpu", *flags)


def test_llama_has_the_published_sizes() -> None:
    facts = llama()
    assert facts["total_parameters"] == 8_030_261_248
    assert facts["num_parameters"] == {
        "embedding": 128256 * 4096,
        "attention": 32 * (2 * 32 + 2 * 8) * 128 * 4096,
        "mlp": 32 * 3 * 14336 * 4096,
        "output": 128256 * 4096,
        "norms": 65 * 4096,
    }
    assert (facts["architecture"], facts["dtype"], facts["context_length"]) == ("LlamaForCausalLM", "bfloat16", 131072)
    assert facts["weight_bytes"] == 2 * 8_030_261_248
    assert facts["kv_bytes_per_token"] == 2 * 32 * 8 * 128 * 2
    assert facts["kv_bytes_per_sequence"] == 131072 * facts["kv_bytes_per_token"]
    assert "num_sequences" not in facts


@pytest.mark.parametrize(
    ("name", "expected"),
    [("llama-3.2-1b", 1_235_814_400), ("qwen3-8b", 8_190_735_360), ("gemma-3-4b", 3_880_263_168)],
)
def test_parameters_of_other_families(name: str, expected: int) -> None:
    assert inspect(str(CONFIGS / name))["total_parameters"] == expected


@needs_smollm2
def test_embedded_gguf_model() -> None:
    facts = inspect("smollm2-135m", "--device", "cpu", "--dtype", "float32")
    assert (facts["total_parameters"], facts["kind"]) == (134_515_008, "gguf")
    assert facts["weight_bytes"] == 4 * 134_515_008
    assert facts["stored_bytes"] > 50_000_000


def test_model_in_several_files_is_counted_without_reading_them() -> None:
    facts = inspect(str(REFERENCES / "qwen3_tied_sharded"))
    files = (REFERENCES / "qwen3_tied_sharded").glob("*.safetensors")
    assert facts["stored_bytes"] == sum(file.stat().st_size for file in files)


def test_opt_parts() -> None:
    facts = inspect(str(REFERENCES / "opt_post_norm_projection"))
    assert facts["num_parameters"] == {
        "embedding": 12792,
        "attention": 28224,
        "mlp": 26334,
        "output": 1152,
        "norms": 576,
    }


def test_sequences_that_fit() -> None:
    facts = llama("--memory", "80GiB", "--max-model-len", "8192", "--gpu-memory-utilization", "0.9")
    usable = int(0.9 * 80 * 2**30)
    assert facts["usable_memory_bytes"] == usable
    left = usable - facts["weight_bytes"] - facts["workspace_bytes"]
    assert facts["num_sequences"] == left // facts["kv_bytes_per_sequence"] == 55
    assert facts["kv_tokens"] == (left // (16 * 131072) - 1) * 16


def test_least_memory_holds_one_sequence() -> None:
    facts = llama("--max-model-len", "1000", "--gpu-memory-utilization", "1", "--memory", "1TiB")
    memory = facts["min_bytes"]
    fits = [
        llama("--max-model-len", "1000", "--gpu-memory-utilization", "1", "--memory", str(size))["num_sequences"]
        for size in (memory - 1, memory)
    ]
    assert fits == [0, 1]


def test_limits_of_a_step_change_the_workspace() -> None:
    few, many = (llama("--max-num-batched-tokens", tokens)["workspace_bytes"] for tokens in ("1024", "8192"))
    assert many - few == 8 * 7168 * (4096 + 14336)


def test_devices_share_weights_and_cache() -> None:
    facts = llama("-tp", "4")
    assert facts["total_parameters"] == 8_030_261_248
    assert facts["weight_bytes"] == 2 * (8_030_261_248 - 65 * 4096) // 4 + 2 * 65 * 4096
    assert facts["kv_bytes_per_token"] == 2 * 32 * 2 * 128 * 2


def test_overrides_of_the_configuration_count() -> None:
    assert llama("--hf-overrides.num_hidden_layers", "16")["num_layers"] == 16


def test_facts_are_printed_one_a_line() -> None:
    flags = ["--device", "gpu", "--memory", "80GiB", "--max-model-len", "8192", "-tp", "2"]
    result = RUNNER.invoke(app, ["inspect", str(CONFIGS / "llama-3.1-8b"), *flags])
    lines = [line.split("  ", 1) for line in result.output.splitlines() if not line.startswith(" ")]
    rows = {label: value.strip() for label, value in lines}
    assert rows["parameters"] == "8,030,261,248"
    assert rows["heads"] == "32 of 128, 8 for keys and values"
    assert rows["KV cache per token on each of 2 devices"] == "64.00 KiB"
    assert rows["KV cache per sequence of 8,192 on each of 2 devices"] == "512.00 MiB"
    assert rows["in 73.60 GiB on each of 2 devices"].startswith("128 sequences of 8,192 tokens, ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["/nowhere/x"], "There is no file or directory /nowhere/x"),
        ([str(CONFIGS / "llama-3.1-8b"), "--max-model-len", "1M"], "is longer than the model's 131072 positions"),
        ([str(CONFIGS / "llama-3.1-8b"), "-tp", "3"], "tensor_parallel_size=3 can't split 32 query heads"),
        ([str(CONFIGS / "llama-3.1-8b"), "--memory", "much"], "memory must be a count such as"),
    ],
)
def test_mistake_is_an_error(flags: list[str], message: str) -> None:
    with pytest.raises(JaxLLMError, match=message):
        RUNNER.invoke(app, ["inspect", *flags], catch_exceptions=False)


@pytest.mark.parametrize(
    ("num_bytes", "expected"),
    [(1023, "1023 bytes"), (1024, "1.00 KiB"), (3 * 2**19, "1.50 MiB"), (2**30, "1.00 GiB"), (2**41, "2048.00 GiB")],
)
def test_sizes_are_in_binary_units(num_bytes: int, expected: str) -> None:
    assert _size(num_bytes) == expected
