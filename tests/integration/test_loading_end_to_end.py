"""From files to tokens: saved and dummy weights, overrides, and files that are wrong."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from jaxllm.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError, ValidationError
from tests.integration.helpers import drawn, generate, greedy_outputs, start_tiny
from tests.references.reference import load_reference

# A restore that fails leaves tensorstore with reads that call back when the event loop of Orbax is closed.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning")

NAME = "llama_gqa"
SMALL = {"max_num_seqs": 2}
"""As other files start their engines on this model, so that programs are found in the cache."""
PAGE_BYTES = 2 * 3 * 2 * 12 * 16 * 4
"""Keys and values, layers, heads, head_dim, tokens of a page, float32."""


@pytest.fixture
def copied(tmp_path) -> Path:
    """A copy of the model's folder that a test may damage."""
    return Path(shutil.copytree(load_reference(NAME).directory, tmp_path / "model"))


def start_at(directory: Path, **options):
    """An engine on a folder with the limits of `start_tiny`."""
    from jaxllm.llm import JaxLLM

    defaults = {"skip_tokenizer_init": True, "use_tqdm_on_load": False, "dtype": "float32", "device": "cpu"}
    limits = {"max_num_seqs": 2, "max_num_batched_tokens": 64, "max_model_len": 96}
    return JaxLLM(directory, **(defaults | limits | options))


def edit_config(directory: Path, **changes) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("saved_by", [1, 2])
def test_orbax_round_trip(tmp_path, saved_by):
    """What one or two devices saved, one and two restore."""
    reference = load_reference(NAME)
    directory = tmp_path / "saved"
    with start_tiny(NAME, **SMALL, tensor_parallel_size=saved_by) as llm:
        llm.save_orbax(directory)
        with pytest.raises(ValidationError, match="exists and is not empty"):
            llm.save_orbax(directory)
    for size in (1, 2):
        with start_at(directory, tensor_parallel_size=size) as llm:
            assert greedy_outputs(llm, reference) == reference.outputs


def test_damaged_orbax_directory(tmp_path):
    directory = tmp_path / "saved"
    with start_tiny(NAME, **SMALL) as llm:
        llm.save_orbax(directory)
    shutil.rmtree(directory / "weights" / "d")
    with pytest.raises(CheckpointError, match="is damaged or incomplete"):
        start_at(directory)


def test_dummy_weights_from_a_config_alone(tmp_path):
    directory = tmp_path / "config-only"
    directory.mkdir()
    shutil.copy(load_reference(NAME).directory / "config.json", directory)
    tokens = []
    for seed in (0, 0, 1):
        with start_at(directory, load_format="dummy", seed=seed) as llm:
            tokens.append(drawn(generate(llm, [[5, 6, 7]]))[0])
    assert tokens[0] == tokens[1]
    assert tokens[0] != tokens[2]
    with pytest.raises(CheckpointError, match=r"has no weight files: expected \*.safetensors or pytorch_model\*.bin"):
        start_at(directory)


def test_weights_are_cast_to_the_run_dtype():
    with start_tiny(NAME, **SMALL, dtype="bfloat16") as llm:
        assert {str(array.dtype) for array in llm._built.runner._weights} == {"bfloat16"}
        outputs = drawn(generate(llm, load_reference(NAME).prompts))
    assert {len(tokens) for tokens in outputs} == {30}


def test_bin_files_are_read_where_asked(copied):
    with pytest.raises(CheckpointError, match=r"has no weight files: expected pytorch_model\*.bin"):
        start_at(copied, load_format="pt")


def test_unknown_architecture(copied):
    edit_config(copied, architectures=["MambaForCausalLM"], model_type="mamba")
    with pytest.raises(UnsupportedModelError, match=r"MambaForCausalLM.*(LlamaForCausalLM|known)"):
        start_at(copied)


def test_truncated_weights(copied):
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        start_at(copied)


def test_weights_of_another_shape(copied):
    edit_config(copied, intermediate_size=64)
    with pytest.raises(CheckpointError, match=r"mlp\.(gate|up|down)_proj\.weight"):
        start_at(copied)


def test_missing_and_unexpected_weights(copied):
    edit_config(copied, num_hidden_layers=4)
    with pytest.raises(CheckpointError, match=r"missing: model\.layers\.3\.input_layernorm\.weight"):
        start_at(copied)
    edit_config(copied, num_hidden_layers=2)
    with pytest.raises(CheckpointError, match=r"unexpected: model\.layers\.2\.input_layernorm\.weight"):
        start_at(copied)


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(ModelNotFoundError, match="nothing-here"):
        start_at(tmp_path / "nothing-here")


@pytest.mark.parametrize("as_function", [False, True])
def test_hf_overrides(as_function):
    """Another rotary base gives other tokens, the one in the file given again the same."""
    reference = load_reference(NAME)
    outputs = {}
    for theta in (10000.0, 100.0):
        changes = {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
        overrides = (lambda config, changes=changes: config | changes) if as_function else changes
        with start_tiny(NAME, **SMALL, hf_overrides=overrides) as llm:
            outputs[theta] = greedy_outputs(llm, reference)
    assert outputs[10000.0] == reference.outputs
    assert outputs[100.0] != reference.outputs


def test_a_length_that_does_not_fit_names_the_longest_that_does():
    with pytest.raises(
        ValidationError, match=r"max_model_len=96 does not fit in the KV cache of .* bytes; the longest that fits is 64"
    ):
        start_tiny(NAME, **SMALL, kv_cache_memory_bytes=5 * PAGE_BYTES)


def test_a_length_beyond_the_model():
    with pytest.raises(ValidationError, match="max_model_len=129 is longer than the model's 128 positions"):
        start_tiny(NAME, **SMALL, max_model_len=129)


@pytest.mark.parametrize("max_model_len", [None, "auto"])
def test_the_models_own_length_shrinks_to_what_fits(caplog, max_model_len):
    with (
        caplog.at_level(logging.WARNING, logger="jaxllm"),
        start_tiny(NAME, **SMALL, max_model_len=max_model_len, kv_cache_memory_bytes=7 * PAGE_BYTES) as llm,
    ):
        assert llm.max_model_len == 96
        assert greedy_outputs(llm, load_reference(NAME)) == load_reference(NAME).outputs
        with pytest.raises(ValidationError, match=r"at most 95 tokens \(max_model_len 96 less one to generate\)"):
            generate(llm, [[5] * 96])
    assert "The KV cache holds 96 tokens: max_model_len shrinks from 128 to that." in caplog.text


def test_no_memory_for_one_page():
    with pytest.raises(ValidationError, match="no memory for the KV cache: 1,000 bytes are left"):
        start_tiny(NAME, **SMALL, kv_cache_memory_bytes=1000)
