"""A GGUF file: its metadata and its dequantised tensors.

The gguf package names the types and dequantises them. Its reader makes several NumPy objects for each vocabulary entry
(13 s for a vocabulary of 262144), so the header is parsed here, in a few hundredths of a second.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from jaxllm.errors import CheckpointError
from jaxllm.models.loading.mapped_file import map_file

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_AXES = 4
_PLAIN_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
}
# Bytes dequantised at a time. The temporaries (some twenty times as large) then stay in the processor's cache:
# four times faster than the package's own 16 rows at a time, and than the whole tensor at once.
_GROUP_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """Where a tensor lies and how it is stored."""

    shape: tuple[int, ...]
    """Slowest axis first, as in NumPy (the file stores it reversed)."""
    quantization: GGMLQuantizationType
    offset: int
    """First byte, from the start of the file."""
    num_bytes: int


class GgufFile:
    """A mapped GGUF file. `metadata` maps key to a number, bool, str, list of str, or NumPy array of numbers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = map_file(path)
        header = _Header(self._bytes)
        try:
            self.metadata, self.tensors = header.parse()
        except _FormatError as error:
            raise CheckpointError(f"Cannot read {path}: {error}.") from error
        except (struct.error, OverflowError) as error:
            raise CheckpointError(f"{path} is truncated or corrupt: its header cannot be parsed.") from error
        end = max((tensor.offset + tensor.num_bytes for tensor in self.tensors.values()), default=0)
        if end > len(self._bytes):
            raise CheckpointError(
                f"{path} is truncated: its tensors end at byte {end}, the file has {len(self._bytes)}; "
                "download it again."
            )

    def read(self, name: str) -> np.ndarray:
        """Gives a quantised tensor as float32, any other as a view in its own dtype."""
        tensor = self.tensors[name]
        data = self._bytes[tensor.offset : tensor.offset + tensor.num_bytes]
        if tensor.quantization.name in _PLAIN_DTYPES:
            return data.view(_PLAIN_DTYPES[tensor.quantization.name]).reshape(tensor.shape)
        try:
            return _dequantize(data, tensor.quantization).reshape(tensor.shape)
        except NotImplementedError as error:
            raise CheckpointError(
                f"Tensor {name!r} of {self.path} is stored as {tensor.quantization.name}, "
                "which the gguf package cannot dequantise."
            ) from error


def _dequantize(data: np.ndarray, quantization: GGMLQuantizationType) -> np.ndarray:
    num_values, num_bytes = GGML_QUANT_SIZES[quantization]
    blocks = data.reshape(-1, num_bytes)
    values = np.empty((len(blocks), num_values), np.float32)
    step = max(1, _GROUP_BYTES // num_bytes)
    codec = getattr(quants, quantization.name, None)
    for start in range(0, len(blocks), step):
        group = blocks[start : start + step]
        if codec is None:
            values[start : start + step] = quants.dequantize(group, quantization)
        else:
            codec.init_grid()
            values[start : start + step] = codec.dequantize_blocks(group)
    return values


class _FormatError(Exception):
    """The header says something that no valid GGUF file says."""


class _Header:
    """Reads the header from front to back."""

    def __init__(self, data: np.ndarray) -> None:
        self._buffer = memoryview(data)
        self._size = len(data)
        self._position = 0

    def parse(self) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
        if bytes(self._buffer[:4]) != b"GGUF":
            raise _FormatError("it is no GGUF file (the first four bytes are not 'GGUF')")
        self._position = 4
        version = self._number("I")
        if version not in _VERSIONS:
            # A big-endian file shows its version in the upper bytes.
            raise _FormatError(f"GGUF version {version} (or byte order) is not supported, only little-endian 2 and 3")
        num_tensors, num_keys = self._number("Q"), self._number("Q")
        metadata = {}
        for _ in range(self._checked_count(num_keys, 12)):
            key = self._string()
            metadata[key] = self._value(self._number("I"))
        rows = [self._tensor_row() for _ in range(self._checked_count(num_tensors, 24))]
        return metadata, self._place(rows, metadata.get("general.alignment", _DEFAULT_ALIGNMENT))

    def _place(self, rows: list[tuple[str, tuple[int, ...], int, int]], alignment: Any) -> dict[str, GgufTensor]:
        if not isinstance(alignment, int) or alignment <= 0:
            raise _FormatError(f"general.alignment is {alignment!r}")
        start = -(-self._position // alignment) * alignment
        tensors = {}
        for name, shape, kind, offset in rows:
            if kind not in GGMLQuantizationType:
                raise _FormatError(
                    f"tensor {name!r} has the unknown quantisation type {kind}; a newer gguf may know it"
                )
            quantization = GGMLQuantizationType(kind)
            num_values, num_bytes = GGML_QUANT_SIZES[quantization]
            if shape and shape[-1] % num_values:
                raise _FormatError(f"tensor {name!r} has rows of {shape[-1]}, no multiple of {num_values}")
            size = math.prod(shape) // num_values * num_bytes
            tensors[name] = GgufTensor(shape=shape, quantization=quantization, offset=start + offset, num_bytes=size)
        return tensors

    def _tensor_row(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        num_axes = self._number("I")
        if num_axes > _MAX_AXES:
            raise _FormatError(f"tensor {name!r} has {num_axes} axes")
        sizes = struct.unpack_from(f"<{num_axes}Q", self._buffer, self._position)
        self._position += 8 * num_axes
        return name, tuple(reversed(sizes)), self._number("I"), self._number("Q")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            kind, count = self._number("I"), self._number("Q")
            return self._strings(count) if kind == _STRING else self._numbers(kind, count)
        return self._number(self._letter(kind))

    def _letter(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise _FormatError(f"its metadata has a value of the unknown type {kind}")
        return _SCALARS[kind]

    def _number(self, letter: str) -> Any:
        (value,) = struct.unpack_from("<" + letter, self._buffer, self._position)
        self._position += struct.calcsize("<" + letter)
        return value

    def _numbers(self, kind: int, count: int) -> np.ndarray:
        dtype = np.dtype("<" + self._letter(kind))
        count = self._checked_count(count, dtype.itemsize)
        values = np.frombuffer(self._buffer, dtype, count, self._position)
        self._position += values.nbytes
        return values

    def _string(self) -> str:
        return self._strings(1)[0]

    def _strings(self, count: int) -> list[str]:
        unpack_length, buffer, position = struct.Struct("<Q").unpack_from, self._buffer, self._position
        values = []
        for _ in range(self._checked_count(count, 8)):
            start = position + 8
            position = start + unpack_length(buffer, position)[0]
            values.append(str(buffer[start:position], "utf-8", "replace"))
        if position > self._size:
            raise _FormatError("it is truncated or corrupt: a text of its header runs past the end of the file")
        self._position = position
        return values

    def _checked_count(self, count: int, num_bytes: int) -> int:
        if count * num_bytes > self._size - self._position:
            raise _FormatError("it is truncated or corrupt: its header announces more than the file holds")
        return count
