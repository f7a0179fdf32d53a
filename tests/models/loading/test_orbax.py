import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxllm.errors import CheckpointError, ValidationError
from jaxllm.models.loading.checkpoint import read_generation_config, read_hf_config
from jaxllm.models.loading.load import WeightTarget
from jaxllm.models.loading.orbax import find_tokenizer_files, load_orbax, save_orbax
from jaxllm.models.loading.source import resolve_model

CONFIG = {"model_type": "llama"}

# A restore that fails leaves tensorstore with reads that call back when the event loop of Orbax is closed.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning")


def mesh_sharding(*axes):
    return NamedSharding(Mesh(np.array(jax.devices()), ("model",)), PartitionSpec(*axes))


def make_arrays():
    matrix = jnp.arange(8 * 4, dtype=jnp.bfloat16).reshape(8, 4)
    return {
        "layers.0.attention.qkv.weight": jax.device_put(matrix, mesh_sharding("model", None)),
        "norm.weight": jnp.arange(3, dtype=jnp.float32),
    }


def make_targets(arrays, **changes):
    sharding = SingleDeviceSharding(jax.devices()[0])
    return [
        WeightTarget(
            name=name,
            sources=(name,),
            assemble=None,
            **({"shape": array.shape, "dtype": array.dtype, "sharding": sharding} | changes),
        )
        for name, array in arrays.items()
    ]


@pytest.fixture
def saved(tmp_path):
    arrays = make_arrays()
    save_orbax(tmp_path / "model", arrays, config=CONFIG, generation_config={"eos_token_id": 2})
    return tmp_path / "model", arrays


def test_restores_what_was_saved_onto_the_wanted_devices(saved):
    directory, arrays = saved
    restored = load_orbax(directory, make_targets(arrays)[::-1])
    assert [array.dtype for array in restored] == [jnp.float32, jnp.bfloat16]
    assert all(array.sharding == SingleDeviceSharding(jax.devices()[0]) for array in restored)
    for array, expected in zip(restored[::-1], arrays.values(), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_restores_into_another_sharding_and_dtype(saved):
    directory, arrays = saved
    name = "layers.0.attention.qkv.weight"
    targets = make_targets(arrays, dtype=jnp.float32, sharding=mesh_sharding())
    restored = dict(zip(arrays, load_orbax(directory, targets), strict=True))
    assert restored[name].dtype == jnp.float32
    assert restored[name].sharding == mesh_sharding()
    np.testing.assert_array_equal(restored[name], arrays[name].astype(jnp.float32))


def test_the_directory_is_a_model(saved):
    source = resolve_model(str(saved[0]))
    assert source.kind == "orbax"
    assert read_hf_config(source) == CONFIG
    assert read_generation_config(source) == {"eos_token_id": 2}


def test_tokenizer_files_are_found_and_copied(tmp_path):
    tokenizer = tmp_path / "source"
    tokenizer.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "merges.txt", "chat_template.jinja", "model.safetensors"):
        (tokenizer / name).write_text(name)
    files = find_tokenizer_files(tokenizer)
    assert [file.name for file in files] == [
        "chat_template.jinja",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    save_orbax(tmp_path / "m", make_arrays(), config=CONFIG, generation_config={}, tokenizer_files=files)
    assert (tmp_path / "m" / "merges.txt").read_text() == "merges.txt"


def test_an_existing_directory_is_not_overwritten(saved):
    with pytest.raises(ValidationError, match="exists and is not empty: save_orbax needs a new directory"):
        save_orbax(saved[0], make_arrays(), config=CONFIG, generation_config={})


def test_arrays_that_do_not_fit_are_listed(saved):
    directory, _ = saved
    targets = make_targets({"norm.weight": jnp.zeros(5), "head.weight": jnp.zeros(2)})
    message = (
        r"do not fit the model: head\.weight is missing, layers\.0\.attention\.qkv\.weight is unexpected, "
        r"norm\.weight is \(3,\), expected \(5,\)\."
    )
    with pytest.raises(CheckpointError, match=message):
        load_orbax(directory, targets)


def test_another_format_version_is_an_error(saved):
    directory, arrays = saved
    metadata = json.loads((directory / "jaxllm.json").read_text())
    (directory / "jaxllm.json").write_text(json.dumps(metadata | {"format_version": 9}))
    with pytest.raises(CheckpointError, match=r"jaxllm\.json has the format version 9, this jaxllm reads 1"):
        load_orbax(directory, make_targets(arrays))


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_damaged_metadata_are_an_error(saved, text):
    (saved[0] / "jaxllm.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"Cannot read .*jaxllm\.json"):
        load_orbax(saved[0], make_targets(saved[1]))


def test_a_missing_array_file_is_an_error(saved):
    directory, arrays = saved
    for file in (directory / "weights").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.unlink()
    with pytest.raises(CheckpointError, match=r"The Orbax checkpoint .* is damaged or incomplete"):
        load_orbax(directory, make_targets(arrays))


def test_missing_weights_are_an_error(saved):
    directory, arrays = saved
    (directory / "weights").rename(directory / "elsewhere")
    with pytest.raises(CheckpointError, match=r"The Orbax checkpoint .* is damaged or incomplete"):
        load_orbax(directory, make_targets(arrays))
