import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxllm.errors import CheckpointError
from jaxllm.models.loading.torch_file import TorchFile
from tests.models.loading.helpers import FakeTorch, write_pickle_archive, write_torch_file

REAL_FILE = Path(__file__).parent / "data" / "torch_small.bin"
BASE = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def fake_torch(monkeypatch):
    return FakeTorch(monkeypatch)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("float32", BASE),
        ("transposed", BASE.T),
        ("slice", BASE[1:, 2:]),
        ("float16", BASE.astype(np.float16)),
        ("bfloat16", BASE.astype(ml_dtypes.bfloat16)),
        ("int64", np.array([1, -2, 3])),
        ("bool", np.array([True, False])),
        ("scalar", np.float32(2.5)),
        ("empty", np.zeros((0, 4), np.float32)),
        ("parameter", BASE * 2),
        ("float8", np.array([1.5, -2.0], ml_dtypes.float8_e4m3fn)),
        ("uint16", np.array([1, 65535], np.uint16)),
        ("weight", np.array([[1, 2], [3, 4]], np.float32)),
    ],
)
def test_reads_a_file_that_torch_wrote(name, expected):
    file = TorchFile(REAL_FILE)
    assert file.shape(name) == expected.shape
    assert file.read(name).dtype == expected.dtype
    np.testing.assert_array_equal(file.read(name).astype(np.float64), expected.astype(np.float64))


def test_lists_names_without_importing_torch():
    assert TorchFile(REAL_FILE).names()[:3] == ["float32", "transposed", "slice"]
    assert "torch" not in sys.modules


def test_reads_shared_storages_and_parameters(tmp_path, fake_torch):
    shared = np.arange(6, dtype=np.float32)
    state = OrderedDict(
        whole=fake_torch.tensor(shared),
        tail=fake_torch.tensor(shared, offset=2, shape=(2, 2), strides=(2, 1)),
        parameter=fake_torch.tensor(shared, is_parameter=True),
    )
    file = TorchFile(write_torch_file(tmp_path / "a.bin", state))
    assert file.read("whole").tolist() == [0, 1, 2, 3, 4, 5]
    assert file.read("tail").tolist() == [[2, 3], [4, 5]]
    assert file.read("parameter").tolist() == [0, 1, 2, 3, 4, 5]


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "refused"),
    [
        (os.system, f"{os.system.__module__}.system"),
        (eval, r"(builtins|__builtin__)\.eval"),
        (getattr, r"(builtins|__builtin__)\.getattr"),
        (os.path.join, "posixpath.join"),
        (bytearray, r"(builtins|__builtin__)\.bytearray"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_refuses_a_pickle_that_calls_anything_else(tmp_path, function, refused, protocol):
    marker = tmp_path / "ran"
    path = write_pickle_archive(tmp_path / "a.bin", pickle.dumps({"x": Calls(function, f"touch {marker}")}, protocol))
    with pytest.raises(CheckpointError, match=f"a.bin is refused: its pickle asks for {refused}, and only what builds"):
        TorchFile(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", [b"torch\nload", b"torch\nserialization.os.system", b"torch._utils\n_rebuild_tensor", b"os\nsystem"]
)
def test_refuses_other_names_of_torch_and_dotted_ones(tmp_path, name):
    path = write_pickle_archive(tmp_path / "a.bin", b"c" + name + b"\n.")
    with pytest.raises(CheckpointError, match="is refused: its pickle asks for " + name.decode().replace("\n", ".")):
        TorchFile(path)


@pytest.mark.parametrize(
    "allowed", [b"torch._utils\n_rebuild_tensor_v2", b"collections\nOrderedDict", b"torch\nFloatStorage"]
)
def test_a_pickle_cannot_change_what_it_may_call(tmp_path, allowed):
    state = pickle.dumps((None, {"__defaults__": (1,), "name": "x"}), 2)[2:-1]
    path = write_pickle_archive(tmp_path / "a.bin", b"c" + allowed + b"\n" + state + b"b.")
    with pytest.raises(CheckpointError, match="its pickle cannot be read"):
        TorchFile(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02}q\x00(X", "its pickle cannot be read"),
        (pickle.dumps([1, 2]), "holds a list, expected a dictionary of tensors"),
        (pickle.dumps({"epoch": 3}), r"no flat dictionary of tensors: the entries \['epoch'\]"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(I1\nI2\ntR.", "its pickle cannot be read"),
        (b"ctorch._utils\n_rebuild_parameter\n(I1\ntR.", "a parameter is made of something that is no tensor"),
        (b"I5\nQ.", "unknown persistent id 5"),
    ],
)
def test_damaged_and_strange_pickles_are_errors(tmp_path, data, message):
    with pytest.raises(CheckpointError, match=message):
        TorchFile(write_pickle_archive(tmp_path / "a.bin", data))


@pytest.mark.parametrize("fields", [{"offset": 5}, {"shape": (7,)}, {"strides": (2,)}, {"shape": (1 << 62,)}])
def test_a_tensor_beyond_its_storage_is_an_error(tmp_path, fake_torch, fields):
    state = {"x": fake_torch.tensor(np.arange(6, dtype=np.float32), **fields)}
    file = TorchFile(write_torch_file(tmp_path / "a.bin", state))
    with pytest.raises(CheckpointError, match=r"a\.bin is corrupt: tensor 'x' reaches value \d+ of a storage of 6"):
        file.read("x")


@pytest.mark.parametrize("fields", [{"offset": -1}, {"shape": (-1,)}, {"strides": (-1,)}, {"strides": (1, 1)}])
def test_negative_strides_are_an_error(tmp_path, fake_torch, fields):
    state = {"x": fake_torch.tensor(np.arange(6, dtype=np.float32), **fields)}
    with pytest.raises(CheckpointError, match="a tensor's offset, shape or strides are no counts"):
        TorchFile(write_torch_file(tmp_path / "a.bin", state))


def test_a_missing_storage_is_an_error(tmp_path, fake_torch):
    path = write_torch_file(tmp_path / "a.bin", {"x": fake_torch.tensor(np.ones(3, np.float32))}, omit="0")
    with pytest.raises(CheckpointError, match=r"a\.bin is corrupt: data/0 is missing from the archive"):
        TorchFile(path).read("x")


def test_compressed_members_are_refused(tmp_path, fake_torch):
    state = {"x": fake_torch.tensor(np.ones(3, np.float32))}
    path = write_torch_file(tmp_path / "a.bin", state, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"data\.pkl is compressed or has no header in the archive|byteorder is"):
        TorchFile(path)


def test_a_truncated_file_is_an_error(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(REAL_FILE.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"a\.bin is truncated or no PyTorch checkpoint"):
        TorchFile(path)


def test_the_old_format_is_refused_with_advice(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + bytes(100))
    with pytest.raises(CheckpointError, match=r"format of torch before 1\.6.*save it again"):
        TorchFile(path)


def test_a_zip_of_something_else_is_an_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.bin", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"expected one data\.pkl in the archive, got 0"):
        TorchFile(tmp_path / "a.bin")


def test_big_endian_files_are_refused(tmp_path):
    path = write_pickle_archive(tmp_path / "a.bin", pickle.dumps({}))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", "big")
    with pytest.raises(CheckpointError, match="big-endian"):
        TorchFile(path)
