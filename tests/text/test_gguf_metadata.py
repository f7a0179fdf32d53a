from pathlib import Path

import numpy as np
import pytest

from jaxllm.errors import CheckpointError
from jaxllm.text.gguf_metadata import read_gguf_metadata
from tests.text.helpers import write_gguf

VALUES = {
    "a.string": "héllo",
    "a.number": 7,
    "a.float": 0.5,
    "a.flag": True,
    "some.strings": ["x", "", "日本"],
    "some.numbers": [1, 2, -3],
    "some.floats": [0.5, -1.0],
    "some.flags": [True, False],
}


def test_reads_what_the_gguf_package_writes(tmp_path: Path) -> None:
    metadata = read_gguf_metadata(write_gguf(tmp_path / "m.gguf", VALUES))
    assert metadata["general.architecture"] == "llama"
    assert metadata["a.string"] == "héllo"
    assert metadata["a.number"] == 7
    assert metadata["a.float"] == 0.5
    assert metadata["a.flag"] is True
    assert metadata["some.strings"] == ["x", "", "日本"]
    np.testing.assert_array_equal(metadata["some.numbers"], [1, 2, -3])
    np.testing.assert_array_equal(metadata["some.floats"], [0.5, -1.0])
    assert metadata["some.flags"].tolist() == [True, False]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.gguf: expected a GGUF file, can't read it"):
        read_gguf_metadata(tmp_path / "nowhere.gguf")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"empty\.gguf: expected a GGUF file, can't read it"):
        read_gguf_metadata(tmp_path / "empty.gguf")


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"PK\x03\x04" + bytes(60))
    with pytest.raises(CheckpointError, match=r"expected a GGUF file, its first bytes are b'PK"):
        read_gguf_metadata(tmp_path / "m.gguf")


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + (9).to_bytes(4, "little") + bytes(16))
    with pytest.raises(CheckpointError, match=r"GGUF version 9 is not supported, expected one of \(2, 3\)"):
        read_gguf_metadata(tmp_path / "m.gguf")


def test_a_file_cut_anywhere_in_its_header_is_refused(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "m.gguf", VALUES).read_bytes()
    cut = tmp_path / "cut.gguf"
    end = whole.index(b"some.flags")
    for length in range(5, end, 3):
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.gguf: the GGUF header is truncated or corrupt"):
            read_gguf_metadata(cut)
