import pytest

from jaxllm.errors import ModelNotFoundError, ValidationError
from jaxllm.models.loading.source import ORBAX_METADATA, ModelSource, resolve_model
from tests.models.loading.helpers import make_hf_directory, write_json


def test_a_directory_in_hugging_face_layout(tmp_path):
    make_hf_directory(tmp_path, {})
    assert resolve_model(str(tmp_path)) == ModelSource(name=str(tmp_path), path=tmp_path, kind="hf")


def test_a_directory_that_save_orbax_wrote(tmp_path):
    make_hf_directory(tmp_path, {})
    write_json(tmp_path / ORBAX_METADATA, {})
    assert resolve_model(str(tmp_path)).kind == "orbax"


def test_a_gguf_file_and_a_directory_that_holds_just_one(tmp_path):
    path = tmp_path / "model.gguf"
    path.touch()
    assert resolve_model(str(path)) == ModelSource(name=str(path), path=path, kind="gguf")
    assert resolve_model(str(tmp_path)) == ModelSource(name=str(tmp_path), path=path, kind="gguf")


def test_the_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_hf_directory(tmp_path / "model", {})
    assert resolve_model("~/model").path == tmp_path / "model"


def test_a_local_directory_wins_over_an_embedded_model(tmp_path, monkeypatch):
    make_hf_directory(tmp_path / "smollm2-135m", {})
    monkeypatch.chdir(tmp_path)
    assert resolve_model("smollm2-135m").kind == "hf"


def test_several_gguf_files_are_ambiguous(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ModelNotFoundError, match=r"has several GGUF files: pass one of a\.gguf, b\.gguf with its path"):
        resolve_model(str(tmp_path))


def test_an_empty_directory_is_an_error(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"has no config\.json and no \.gguf file"):
        resolve_model(str(tmp_path))


def test_another_file_is_an_error(tmp_path):
    (tmp_path / "model.pth").touch()
    with pytest.raises(ModelNotFoundError, match=r"model\.pth is a file, expected a directory or a \.gguf file"):
        resolve_model(str(tmp_path / "model.pth"))


@pytest.mark.parametrize(
    "model", ["/no/such/place", "./model", "~/no-such-model", "a/b/c", "missing.gguf", "org/x.gguf"]
)
def test_a_missing_path_is_not_asked_of_a_hub(model):
    with pytest.raises(
        ModelNotFoundError, match=f"no file or directory {model}, and it is no hub id. Download it else"
    ):
        resolve_model(model)


@pytest.mark.parametrize("model", ["", None, 3])
def test_other_values_are_refused(model):
    with pytest.raises(ValidationError, match="model must be a path, a hub id or an embedded model's name, got"):
        resolve_model(model)


def test_a_revision_of_something_local_is_refused(tmp_path):
    make_hf_directory(tmp_path, {})
    with pytest.raises(
        ValidationError, match=r"revision is for models of a hub, but .* is a local path; got revision='v1'"
    ):
        resolve_model(str(tmp_path), revision="v1")
    with pytest.raises(ValidationError, match="'smollm2-135m' is an embedded model; got revision='v1'"):
        resolve_model("smollm2-135m", revision="v1")
