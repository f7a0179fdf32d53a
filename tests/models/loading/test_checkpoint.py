import numpy as np
import pytest

from jaxllm.errors import CheckpointError, ModelNotFoundError, ValidationError
from jaxllm.models.loading.checkpoint import (
    RenamedCheckpoint,
    open_checkpoint,
    read_generation_config,
    read_hf_config,
)
from tests.models.loading.helpers import (
    LLAMA_CONFIG,
    FakeTorch,
    make_hf_directory,
    make_source,
    write_gguf,
    write_json,
    write_safetensors,
    write_torch_file,
)

A, B = np.array([1.0, 2.0], np.float32), np.array([[3.0]], np.float32)


def write_shards(directory):
    write_safetensors(directory / "model-00001-of-00002.safetensors", {"a": A})
    write_safetensors(directory / "model-00002-of-00002.safetensors", {"b": B})
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    write_json(directory / "model.safetensors.index.json", {"metadata": {}, "weight_map": names})
    return directory


def test_reads_a_single_safetensors_file(tmp_path):
    checkpoint = open_checkpoint(make_source(make_hf_directory(tmp_path, {"a": A})))
    assert checkpoint.names() == ["a"]
    assert checkpoint.shape("a") == (2,)
    assert checkpoint.read("a").tolist() == [1, 2]


def test_reads_sharded_safetensors(tmp_path):
    checkpoint = open_checkpoint(make_source(write_shards(tmp_path)))
    assert sorted(checkpoint.names()) == ["a", "b"]
    assert checkpoint.location == str(tmp_path)
    assert (checkpoint.read("a").tolist(), checkpoint.read("b").tolist()) == ([1, 2], [[3]])
    assert checkpoint.shape("b") == (1, 1)


def test_reads_files_of_other_names_but_no_consolidated_copy(tmp_path):
    write_safetensors(tmp_path / "weights.safetensors", {"a": A})
    write_safetensors(tmp_path / "consolidated.safetensors", {"z": A})
    assert open_checkpoint(make_source(tmp_path)).names() == ["a"]


def test_reads_single_and_sharded_torch_files(tmp_path, monkeypatch):
    fake = FakeTorch(monkeypatch)
    write_torch_file(tmp_path / "one" / "pytorch_model.bin", {"a": fake.tensor(A)})
    assert open_checkpoint(make_source(tmp_path / "one")).read("a").tolist() == [1, 2]
    two = tmp_path / "two"
    write_torch_file(two / "pytorch_model-00001-of-00002.bin", {"a": fake.tensor(A)})
    write_torch_file(two / "pytorch_model-00002-of-00002.bin", {"b": fake.tensor(B)})
    names = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    write_json(two / "pytorch_model.bin.index.json", {"weight_map": names})
    assert sorted(open_checkpoint(make_source(two)).names()) == ["a", "b"]


def test_prefers_safetensors_unless_told_otherwise(tmp_path, monkeypatch):
    make_hf_directory(tmp_path, {"a": A})
    write_torch_file(tmp_path / "pytorch_model.bin", {"b": FakeTorch(monkeypatch).tensor(B)})
    source = make_source(tmp_path)
    assert open_checkpoint(source).names() == ["a"]
    assert open_checkpoint(source, load_format="safetensors").names() == ["a"]
    assert open_checkpoint(source, load_format="pt").names() == ["b"]


def test_opens_gguf(tmp_path):
    path = write_gguf(tmp_path / "a.gguf", {"token_embd.weight": np.zeros((10, 64), np.float32)})
    for load_format in ("auto", "gguf"):
        checkpoint = open_checkpoint(make_source(path, "gguf"), load_format=load_format)
        assert checkpoint.names() == ["model.embed_tokens.weight"]
    assert read_hf_config(make_source(path, "gguf"))["model_type"] == "llama"
    assert read_generation_config(make_source(path, "gguf")) == {}


def test_a_missing_shard_is_named(tmp_path):
    write_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"lacks weight files that model\.safetensors\.index\.json lists: model-00002"
    ):
        open_checkpoint(make_source(tmp_path))


@pytest.mark.parametrize("index", [{}, {"weight_map": {"a": 3}}])
def test_an_index_without_a_map_is_an_error(tmp_path, index):
    write_json(tmp_path / "model.safetensors.index.json", index)
    with pytest.raises(CheckpointError, match="has no weight_map from tensor names to files"):
        open_checkpoint(make_source(tmp_path))


@pytest.mark.parametrize(
    ("load_format", "expected"),
    [
        ("auto", r"\*\.safetensors or pytorch_model\*\.bin"),
        ("safetensors", r"\*\.safetensors"),
        ("pt", r"pytorch_model\*\.bin"),
    ],
)
def test_a_directory_without_weights_is_an_error(tmp_path, load_format, expected):
    with pytest.raises(CheckpointError, match=f"has no weight files: expected {expected}"):
        open_checkpoint(make_source(tmp_path), load_format=load_format)


def test_an_unknown_load_format_is_refused(tmp_path):
    with pytest.raises(ValidationError, match="load_format must be one of auto, safetensors, pt, gguf, got 'npz'"):
        open_checkpoint(make_source(tmp_path), load_format="npz")


@pytest.mark.parametrize(("kind", "load_format"), [("gguf", "safetensors"), ("gguf", "pt"), ("hf", "gguf")])
def test_a_load_format_of_another_kind_is_refused(tmp_path, kind, load_format):
    with pytest.raises(ValidationError, match=f"load_format='{load_format}' does not fit .* of kind '{kind}'"):
        open_checkpoint(make_source(tmp_path, kind), load_format=load_format)


def test_an_orbax_directory_is_restored_not_opened(tmp_path):
    with pytest.raises(ValidationError, match="is an Orbax checkpoint: it is restored, not opened"):
        open_checkpoint(make_source(tmp_path, "orbax"))


def test_reads_configs(tmp_path):
    make_hf_directory(tmp_path, {})
    assert read_hf_config(make_source(tmp_path)) == LLAMA_CONFIG
    assert read_generation_config(make_source(tmp_path)) == {}
    write_json(tmp_path / "generation_config.json", {"eos_token_id": [1, 2]})
    assert read_generation_config(make_source(tmp_path)) == {"eos_token_id": [1, 2]}


def test_a_missing_config_is_an_error(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"has no config\.json: expected a model in Hugging Face layout"):
        read_hf_config(make_source(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", r"Cannot read .*config\.json"), ("[]", r"config\.json holds a list, expected a JSON object")],
)
def test_a_damaged_config_is_an_error(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_hf_config(make_source(tmp_path))


def test_renames_tensors(tmp_path):
    checkpoint = open_checkpoint(make_source(make_hf_directory(tmp_path, {"decoder.a": A})))
    renamed = RenamedCheckpoint(checkpoint, lambda name: f"model.{name}")
    assert renamed.names() == ["model.decoder.a"]
    assert renamed.shape("model.decoder.a") == (2,)
    assert renamed.read("model.decoder.a").tolist() == [1, 2]
