import struct

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from jaxllm.errors import CheckpointError
from jaxllm.models.loading.gguf_file import GgufFile
from tests.models.loading.helpers import write_gguf

QUANTIZABLE = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"]
ONLY_DEQUANTIZABLE = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S",
                      "IQ1_S", "IQ1_M", "IQ4_NL", "IQ4_XS"]  # fmt: skip


def random_values(shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", QUANTIZABLE)
def test_dequantises_like_the_package(tmp_path, name):
    kind = GGMLQuantizationType[name]
    values = random_values((300, 512))
    file = GgufFile(write_gguf(tmp_path / "a.gguf", {"x.weight": values}, quantization=kind))
    expected = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
    assert file.tensors["x.weight"].quantization == kind
    assert file.read("x.weight").dtype == np.float32
    np.testing.assert_array_equal(file.read("x.weight"), expected)


@pytest.mark.parametrize("name", ONLY_DEQUANTIZABLE)
def test_dequantises_arbitrary_blocks_like_the_package(tmp_path, name):
    kind = GGMLQuantizationType[name]
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    # Bytes up to 63 keep the float16 scales among them finite.
    data = np.random.default_rng(0).integers(0, 64, (700, 2 * block_bytes), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("x.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    np.testing.assert_array_equal(GgufFile(tmp_path / "a.gguf").read("x.weight"), gguf.quants.dequantize(data, kind))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16, np.int32, np.int8])
def test_reads_plain_tensors_in_their_own_dtype(tmp_path, dtype):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    file = GgufFile(write_gguf(tmp_path / "a.gguf", {"x.weight": values}))
    assert file.tensors["x.weight"].shape == (2, 3, 4)
    assert file.read("x.weight").dtype == dtype
    np.testing.assert_array_equal(file.read("x.weight"), values)


def test_reads_metadata_of_every_kind(tmp_path):
    path = write_gguf(
        tmp_path / "a.gguf",
        {},
        some__flag=True,
        some__text="ä\n",
        some__float=0.5,
        some__texts=["a", "", "▁b"],
        some__numbers=[1, 2, 3],
        some__floats=[0.5, -1.0],
    )
    metadata = GgufFile(path).metadata
    assert metadata["general.architecture"] == "llama"
    assert metadata["some.flag"] is True
    assert metadata["some.text"] == "ä\n"
    assert metadata["some.float"] == 0.5
    assert metadata["some.texts"] == ["a", "", "▁b"]
    assert metadata["some.numbers"].tolist() == [1, 2, 3]
    assert metadata["some.floats"].tolist() == [0.5, -1.0]


def test_respects_another_alignment(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_custom_alignment(256)
    for name in ("x", "y"):
        writer.add_tensor(name, np.full(3, ord(name), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(tmp_path / "a.gguf")
    assert file.tensors["y"].offset % 256 == 0
    assert file.read("y").tolist() == [ord("y")] * 3


def test_truncated_tensors_are_an_error(tmp_path):
    path = write_gguf(tmp_path / "a.gguf", {"x.weight": random_values((8, 8))})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"a\.gguf is truncated: its tensors end at byte \d+, the file has \d+"):
        GgufFile(path)


def test_a_header_cut_anywhere_is_an_error(tmp_path):
    path = write_gguf(tmp_path / "a.gguf", {"x.weight": random_values((8, 8))}, some__texts=["a", "b"], some__list=[1])
    data = path.read_bytes()
    tensor_start = GgufFile(path).tensors["x.weight"].offset
    for size in range(1, tensor_start, 7):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=r"a\.gguf"):
            GgufFile(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGML" + bytes(100), "it is no GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1 .*is not supported"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "byte order"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "announces more than the file holds"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<QcI", 1, b"k", 77), "value of the unknown type 77"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<QcIIQ", 1, b"k", 9, 4, 1 << 61), "announces more"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<QcIQ", 1, b"k", 8, 1 << 50), "a text of its header"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 63) + bytes(9), "a text of its header"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<QcIIQQ", 1, b"k", 9, 8, 2, 1 << 63) + bytes(9),
            "is truncated or corrupt: its header cannot be parsed",
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<QcI", 1, b"x", 5) + bytes(60), "'x' has 5 axes"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<QcIQIQ", 1, b"x", 1, 4, 99, 0),
            "tensor 'x' has the unknown quantisation type 99",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<QcIQIQ", 1, b"x", 1, 4, 2, 0),
            "tensor 'x' has rows of 4, no multiple of 32",
        ),
    ],
)
def test_corrupt_files_are_errors(tmp_path, data, message):
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        GgufFile(tmp_path / "a.gguf")


def test_a_type_that_the_package_cannot_dequantise_is_an_error(tmp_path):
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<QcIQIQ", 1, b"x", 1, 32, 9, 0)
    (tmp_path / "a.gguf").write_bytes(header + bytes(128))
    with pytest.raises(CheckpointError, match=r"'x' of .*a\.gguf is stored as Q8_1, which the gguf package cannot"):
        GgufFile(tmp_path / "a.gguf").read("x")
