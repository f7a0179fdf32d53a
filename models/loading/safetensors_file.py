"""Tensors of one safetensors file.

The safetensors package copies each tensor it gives to NumPy and knows no float8 there, so the (small) header is read
here and tensors are views of the mapped file.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxllm.errors import CheckpointError
from jaxllm.models.loading.mapped_file import map_file

_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_LENGTH_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One tensor's row of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    """Offset of the first byte in the file."""
    end: int


class SafetensorsFile:
    """A `Checkpoint` over one `.safetensors` file; `read` gives views of the mapped file."""

    def __init__(self, path: Path) -> None:
        self.location = str(path)
        self._bytes = map_file(path)
        self._entries = _read_header(path, self._bytes)

    def names(self) -> list[str]:
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name].shape

    def read(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        return self._bytes[entry.begin : entry.end].view(_DTYPES[entry.dtype]).reshape(entry.shape)


def _read_header(path: Path, data: np.ndarray) -> dict[str, _Entry]:
    length = int.from_bytes(data[:_LENGTH_BYTES].tobytes(), "little")
    start = _LENGTH_BYTES + length
    if len(data) < _LENGTH_BYTES or start > len(data):
        raise CheckpointError(f"{path} is truncated or no safetensors file: its header does not fit into the file.")
    try:
        header = json.loads(data[_LENGTH_BYTES:start].tobytes())
        rows = {name: row for name, row in header.items() if name != "__metadata__"}
        entries = {name: _read_entry(row, start) for name, row in rows.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is corrupt or no safetensors file: its header cannot be parsed.") from error
    for name, entry in entries.items():
        _check_entry(path, name, entry, len(data), start)
    return entries


def _read_entry(row: dict[str, Any], start: int) -> _Entry:
    begin, end = (int(offset) for offset in row["data_offsets"])
    shape = tuple(int(size) for size in row["shape"])
    return _Entry(dtype=row["dtype"], shape=shape, begin=start + begin, end=start + end)


def _check_entry(path: Path, name: str, entry: _Entry, num_bytes: int, start: int) -> None:
    if entry.dtype not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise CheckpointError(f"Tensor {name!r} of {path} has the data type {entry.dtype}; known are {known}.")
    expected = math.prod(entry.shape) * _DTYPES[entry.dtype].itemsize
    if entry.begin < start or min(entry.shape, default=0) < 0 or entry.end - entry.begin != expected:
        raise CheckpointError(
            f"{path} is corrupt: the header gives tensor {name!r} a place that does not fit its shape."
        )
    if entry.end > num_bytes:
        raise CheckpointError(
            f"{path} is truncated: tensor {name!r} ends at byte {entry.end}, the file has {num_bytes}; "
            "download it again."
        )
