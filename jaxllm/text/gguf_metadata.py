"""Reads the key-value part of a GGUF file, fast: a vocabulary of 262k strings takes a fraction of a second.

The `gguf` package's reader makes several arrays per string and takes seconds for the same; it remains the way to
read tensors.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.errors import CheckpointError

_MAGIC = b"GGUF"
_SUPPORTED_VERSIONS = (2, 3)
_STRING = 8
_ARRAY = 9
_SCALAR_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_MAX_ARRAY_DEPTH = 4


def read_gguf_metadata(path: Path) -> dict[str, Any]:
    """All key-value pairs of the file. Strings become str, numbers int or float, arrays of strings lists, arrays of
    numbers NumPy arrays."""
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected a GGUF file, can't read it: {error}") from error
    try:
        return _parse(data, path)
    except (struct.error, IndexError, UnicodeDecodeError, OverflowError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: the GGUF header is truncated or corrupt ({error})") from error
    finally:
        data.close()


def _parse(data: mmap.mmap, path: Path) -> dict[str, Any]:
    if data[:4] != _MAGIC:
        raise CheckpointError(f"{path}: expected a GGUF file, its first bytes are {bytes(data[:4])!r}")
    byte_order = "<" if struct.unpack_from("<I", data, 4)[0] & 0xFFFF else ">"
    version, _num_tensors, num_pairs = struct.unpack_from(byte_order + "IQQ", data, 4)
    if version not in _SUPPORTED_VERSIONS:
        raise CheckpointError(f"{path}: GGUF version {version} is not supported, expected one of {_SUPPORTED_VERSIONS}")
    cursor = _Cursor(data=data, offset=24, byte_order=byte_order)
    pairs: dict[str, Any] = {}
    for _ in range(num_pairs):
        key = cursor.read_string()
        pairs[key] = cursor.read_value(cursor.read_scalar("I"))
    return pairs


@dataclass(kw_only=True)
class _Cursor:
    """A position in the file, moved on by every read."""

    data: mmap.mmap
    offset: int
    byte_order: str

    def read_scalar(self, code: str) -> Any:
        value = struct.unpack_from(self.byte_order + code, self.data, self.offset)[0]
        self.offset += struct.calcsize(code)
        return value

    def read_string(self) -> str:
        length = self.read_scalar("Q")
        return self._take(length).decode("utf-8")

    def read_value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.read_string()
        if kind == _ARRAY:
            return self._read_array(depth)
        if kind not in _SCALAR_FORMATS:
            raise ValueError(f"unknown value type {kind}")
        return self.read_scalar(_SCALAR_FORMATS[kind])

    def _read_array(self, depth: int) -> Any:
        if depth > _MAX_ARRAY_DEPTH:
            raise ValueError("arrays are nested too deeply")
        kind = self.read_scalar("I")
        length = self.read_scalar("Q")
        if kind == _STRING:
            return self._read_strings(length)
        if kind == _ARRAY:
            return [self.read_value(kind, depth + 1) for _ in range(length)]
        if kind not in _SCALAR_FORMATS:
            raise ValueError(f"unknown value type {kind}")
        dtype = np.dtype(self.byte_order + _SCALAR_FORMATS[kind])
        return np.frombuffer(self._take(length * dtype.itemsize), dtype=dtype)

    def _read_strings(self, length: int) -> list[str]:
        unpack_length = struct.Struct(self.byte_order + "Q").unpack_from
        data, offset, strings = self.data, self.offset, []
        for _ in range(length):
            start = offset + 8
            offset = start + unpack_length(data, offset)[0]
            strings.append(data[start:offset].decode("utf-8", "replace"))
        if offset > len(data):
            raise ValueError("an array of strings runs past the end")
        self.offset = offset
        return strings

    def _take(self, length: int) -> bytes:
        end = self.offset + length
        if end > len(self.data):
            raise ValueError(f"a value of {length} bytes runs past the end")
        taken = self.data[self.offset : end]
        self.offset = end
        return taken
