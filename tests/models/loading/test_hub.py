import sys
import types
from typing import Any

import pytest

from jaxllm.errors import ModelNotFoundError
from jaxllm.models.loading.hub import uses_modelscope
from jaxllm.models.loading.source import resolve_model
from tests.models.loading.fake_hub import serve_hub

CONFIG = {"config.json": b"{}", "tokenizer.json": b"{ }", "merges.txt": b"a b"}
UNWANTED = {
    "README.md": b"#",
    "onnx/model.json": b"{}",
    "original/x.safetensors": b"x",
    "consolidated.safetensors": b"x",
}
SAFETENSORS = {"model.safetensors": b"weights", "pytorch_model.bin": b"weights"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("JAXLLM_USE_MODELSCOPE", "VLLM_USE_MODELSCOPE", "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture
def start_hub(monkeypatch):
    def start(models, **options):
        context = serve_hub(models, **options)
        hub = context.__enter__()
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        contexts.append(context)
        return hub

    contexts: list[Any] = []
    yield start
    for context in contexts:
        context.__exit__(None, None, None)


def test_downloads_only_what_is_needed(start_hub, tmp_path):
    hub = start_hub({"org/model": CONFIG | SAFETENSORS | UNWANTED})
    source = resolve_model("org/model", download_dir=str(tmp_path), hf_token="secret")
    assert (source.name, source.kind) == ("org/model", "hf")
    assert sorted(file.name for file in source.path.iterdir()) == sorted([*CONFIG, "model.safetensors"])
    assert (source.path / "model.safetensors").read_bytes() == b"weights"
    assert sorted(hub.downloaded) == sorted([*CONFIG, "model.safetensors"])
    assert "Bearer secret" in hub.tokens
    assert source.path.is_relative_to(tmp_path)


def test_downloads_torch_weights_where_there_are_no_others(start_hub, tmp_path):
    files = CONFIG | {"pytorch_model.bin": b"weights", "optimizer.bin": b"x"}
    hub = start_hub({"org/model": files})
    source = resolve_model("org/model", download_dir=str(tmp_path))
    assert sorted(hub.downloaded) == sorted([*CONFIG, "pytorch_model.bin"])
    assert (source.path / "pytorch_model.bin").read_bytes() == b"weights"


def test_downloads_no_weights_where_they_are_not_wanted(start_hub, tmp_path):
    hub = start_hub({"org/model": CONFIG | SAFETENSORS | UNWANTED})
    source = resolve_model("org/model", download_dir=str(tmp_path), wants_weights=False)
    assert sorted(file.name for file in source.path.iterdir()) == sorted(CONFIG)
    assert sorted(hub.downloaded) == sorted(CONFIG)


def test_a_second_time_downloads_nothing_even_without_the_hub(start_hub, tmp_path, monkeypatch):
    hub = start_hub({"org/model": CONFIG | SAFETENSORS})
    first = resolve_model("org/model", download_dir=str(tmp_path))
    hub.downloaded.clear()
    assert resolve_model("org/model", download_dir=str(tmp_path)) == first
    assert hub.downloaded == []
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert resolve_model("org/model", download_dir=str(tmp_path)) == first


def test_an_unreachable_hub_is_an_error_with_ways_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    message = (
        "The Hugging Face hub cannot be reached .*and 'org/model' is not in its local cache. "
        "Download it elsewhere and pass the directory, or use an embedded model: smollm2-135m, "
    )
    with pytest.raises(ModelNotFoundError, match=message):
        resolve_model("org/model", download_dir=str(tmp_path))


@pytest.mark.parametrize("model", ["org/unknown", "org/--bad--id"])
def test_an_unknown_model_is_an_error(start_hub, tmp_path, model):
    start_hub({})
    with pytest.raises(
        ModelNotFoundError, match=f"'{model}' is no local path, no embedded model, and no model on the Hug"
    ):
        resolve_model(model, download_dir=str(tmp_path))


def test_a_gated_model_is_an_error(start_hub, tmp_path):
    start_hub({}, gated=("org/model",))
    with pytest.raises(
        ModelNotFoundError, match=r"'org/model' is gated: ask for access .* pass hf_token or set HF_TOKEN"
    ):
        resolve_model("org/model", download_dir=str(tmp_path))


def test_an_unknown_revision_is_an_error(start_hub, tmp_path):
    start_hub({"org/model": CONFIG | SAFETENSORS})
    with pytest.raises(ModelNotFoundError, match="The Hugging Face model 'org/model' has no revision 'v9'"):
        resolve_model("org/model", revision="v9", download_dir=str(tmp_path))


def test_a_model_without_weights_is_an_error(start_hub, tmp_path):
    start_hub({"org/model": CONFIG | {"model.gguf": b"x"}})
    with pytest.raises(
        ModelNotFoundError, match=r"has no \*\.safetensors or pytorch_model\*\.bin weights.*\.gguf files"
    ):
        resolve_model("org/model", download_dir=str(tmp_path))


@pytest.mark.parametrize("variable", ["JAXLLM_USE_MODELSCOPE", "VLLM_USE_MODELSCOPE"])
@pytest.mark.parametrize(
    ("value", "expected"), [("true", True), ("1", True), ("True", True), ("0", False), ("", False)]
)
def test_an_environment_variable_chooses_modelscope(monkeypatch, variable, value, expected):
    monkeypatch.setenv(variable, value)
    assert uses_modelscope() is expected


def test_downloads_from_modelscope(monkeypatch, tmp_path):
    calls = []

    def snapshot_download(model, **options):
        calls.append((model, options))
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "model.safetensors").touch()
        return str(tmp_path)

    module = types.ModuleType("modelscope")
    vars(module)["snapshot_download"] = snapshot_download
    monkeypatch.setitem(sys.modules, "modelscope", module)
    monkeypatch.setenv("JAXLLM_USE_MODELSCOPE", "true")
    source = resolve_model("org/model", revision="v1", download_dir="/somewhere")
    assert source.path == tmp_path
    ((model, options),) = calls
    assert (model, options["revision"], options["cache_dir"]) == ("org/model", "v1", "/somewhere")
    assert "*.safetensors" in options["allow_patterns"]
    assert options["ignore_patterns"] == ["*/*", "consolidated*"]


def test_a_missing_modelscope_package_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    monkeypatch.setenv("VLLM_USE_MODELSCOPE", "1")
    with pytest.raises(ModelNotFoundError, match="package modelscope is not installed: pip install modelscope"):
        resolve_model("org/model")


def test_a_failing_modelscope_is_an_error(monkeypatch):
    def snapshot_download(model, **options):
        raise RuntimeError("server\n  says no")

    module = types.ModuleType("modelscope")
    vars(module)["snapshot_download"] = snapshot_download
    monkeypatch.setitem(sys.modules, "modelscope", module)
    monkeypatch.setenv("VLLM_USE_MODELSCOPE", "1")
    with pytest.raises(
        ModelNotFoundError, match=r"Cannot get 'org/model' from the ModelScope hub \(RuntimeError: server says no\)"
    ):
        resolve_model("org/model")
