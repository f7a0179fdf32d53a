import json
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxllm.errors import CheckpointError
from jaxllm.models.loading.safetensors_file import SafetensorsFile
from tests.models.loading.helpers import write_safetensors


def write_raw(path: Path, header: object, data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.int32, np.int8, np.uint8, np.bool_]
)
def test_reads_what_the_package_wrote(tmp_path, dtype):
    values = np.arange(6).reshape(2, 3).astype(dtype)
    file = SafetensorsFile(write_safetensors(tmp_path / "a.safetensors", {"x": values, "y": values[0]}))
    assert sorted(file.names()) == ["x", "y"]
    assert file.shape("x") == (2, 3)
    assert file.read("x").dtype == dtype
    np.testing.assert_array_equal(file.read("x"), values)
    np.testing.assert_array_equal(file.read("y"), values[0])


def test_reads_float8_scalars_and_empty_tensors(tmp_path):
    header = {
        "__metadata__": {"format": "pt"},
        "eight": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]},
        "scalar": {"dtype": "F32", "shape": [], "data_offsets": [2, 6]},
        "empty": {"dtype": "F32", "shape": [0, 4], "data_offsets": [6, 6]},
    }
    data = np.array([1.5, -2.0], ml_dtypes.float8_e4m3fn).tobytes() + np.float32(7).tobytes()
    file = SafetensorsFile(write_raw(tmp_path / "a.safetensors", header, data))
    assert file.read("eight").astype(np.float32).tolist() == [1.5, -2.0]
    assert file.read("scalar") == 7
    assert file.read("empty").shape == (0, 4)


def test_views_cannot_change_the_file(tmp_path):
    file = SafetensorsFile(write_safetensors(tmp_path / "a.safetensors", {"x": np.ones(3, np.float32)}))
    assert not file.read("x").flags.writeable


def test_reads_from_several_threads(tmp_path):
    file = SafetensorsFile(write_safetensors(tmp_path / "a.safetensors", {"x": np.ones(3, np.float32)}))
    sums = []
    threads = [threading.Thread(target=lambda: sums.append(file.read("x").sum())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [3.0] * 4


def test_truncated_data_is_an_error(tmp_path):
    path = write_safetensors(tmp_path / "a.safetensors", {"x": np.ones(100, np.float32)})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(
        CheckpointError, match=r"a\.safetensors is truncated: tensor 'x' ends at byte \d+, the file has"
    ):
        SafetensorsFile(path)


@pytest.mark.parametrize("size", [4, 20])
def test_truncated_header_is_an_error(tmp_path, size):
    path = write_safetensors(tmp_path / "a.safetensors", {"x": np.ones(100, np.float32)})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="its header does not fit into the file"):
        SafetensorsFile(path)


def test_empty_file_is_an_error(tmp_path):
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"a\.safetensors is empty: download it again"):
        SafetensorsFile(tmp_path / "a.safetensors")


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"Cannot read the weight file .*a\.safetensors: No such file"):
        SafetensorsFile(tmp_path / "a.safetensors")


def test_other_content_is_an_error(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"<html>" + bytes(100))
    with pytest.raises(CheckpointError, match="no safetensors file"):
        SafetensorsFile(tmp_path / "a.safetensors")


@pytest.mark.parametrize("header", [[], {"x": 3}, {"x": {"dtype": "F32"}}])
def test_strange_header_is_an_error(tmp_path, header):
    with pytest.raises(CheckpointError, match="its header cannot be parsed"):
        SafetensorsFile(write_raw(tmp_path / "a.safetensors", header))


@pytest.mark.parametrize(
    ("shape", "offsets"), [([2], [0, 4]), ([1], [-4, 0]), ([-1, -1], [0, 4]), ([1 << 40, 1 << 40], [0, 4])]
)
def test_offsets_that_do_not_fit_the_shape_are_an_error(tmp_path, shape, offsets):
    header = {"x": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}
    with pytest.raises(CheckpointError, match="tensor 'x' a place that does not fit its shape"):
        SafetensorsFile(write_raw(tmp_path / "a.safetensors", header, bytes(16)))


def test_unknown_dtype_is_an_error(tmp_path):
    header = {"x": {"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}}
    with pytest.raises(CheckpointError, match="has the data type F3; known are F64, F32"):
        SafetensorsFile(write_raw(tmp_path / "a.safetensors", header, bytes(4)))
