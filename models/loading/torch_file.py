"""Tensors of one PyTorch `.bin` file, without torch and without running what the pickle asks for."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxllm.errors import CheckpointError
from jaxllm.models.loading.mapped_file import map_file

_DTYPES: dict[str, np.dtype] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint64": np.dtype(np.uint64),
    "uint32": np.dtype(np.uint32),
    "uint16": np.dtype(np.uint16),
    "uint8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_LOCAL_HEADER = struct.Struct("<26xHH")


class _Dtype(NamedTuple):
    """Stands for a torch dtype or storage class in the pickle."""

    name: str


class _Storage(NamedTuple):
    """A flat run of values in the archive."""

    dtype: str
    key: str


class _Tensor(NamedTuple):
    """A strided view of a storage; offset and strides count elements."""

    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# What a pickle gets to call must have no state that it could change: functions have attributes, these have none.
class _RebuildTensor:
    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> _Tensor:
        return _tensor(storage, storage.dtype, offset, shape, strides)


class _RebuildTensorWithDtype:
    __slots__ = ()

    def __call__(
        self, storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
    ) -> _Tensor:
        return _tensor(storage, dtype.name, offset, shape, strides)


class _RebuildParameter:
    __slots__ = ()

    def __call__(self, data: Any, *rest: Any) -> _Tensor:
        if not isinstance(data, _Tensor):
            raise pickle.UnpicklingError("a parameter is made of something that is no tensor")
        return data


def _tensor(storage: Any, dtype: Any, offset: Any, shape: Any, strides: Any) -> _Tensor:
    if not isinstance(storage, _Storage) or dtype not in _DTYPES:
        raise pickle.UnpicklingError("a tensor is made of something that is no storage")
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(type(number) is int and number >= 0 for number in numbers):
        raise pickle.UnpicklingError("a tensor's offset, shape or strides are no counts")
    return _Tensor(storage, dtype, offset, tuple(shape), tuple(strides))


_ALLOWED: dict[tuple[str, str], Callable[[], Any]] = {
    ("collections", "OrderedDict"): lambda: OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor,
    ("torch._utils", "_rebuild_tensor_v3"): _RebuildTensorWithDtype,
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter,
    ("torch.storage", "UntypedStorage"): lambda: _Dtype("uint8"),
}
_ALLOWED |= {("torch", name): partial(_Dtype, name) for name in _DTYPES}
_ALLOWED |= {("torch", storage): partial(_Dtype, name) for storage, name in _STORAGES.items()}


class _RefusedError(pickle.UnpicklingError):
    """The pickle asks for a name outside the list."""


class _TensorUnpickler(pickle.Unpickler):
    """Builds dicts and tensor descriptions; every other global is refused before anything is imported."""

    def find_class(self, module: str, name: str, /) -> Any:
        make = _ALLOWED.get((module, name))
        if make is None:
            raise _RefusedError(f"{module}.{name}")
        return make()

    def persistent_load(self, pid: Any, /) -> _Storage:
        match pid:
            case ("storage", _Dtype(name=dtype), str(key), *_):
                return _Storage(dtype, key)
        raise pickle.UnpicklingError(f"unknown persistent id {pid!r}")


class TorchFile:
    """A `Checkpoint` over one file written by `torch.save(state_dict)`; `read` gives views of the mapped file."""

    def __init__(self, path: Path) -> None:
        self.location = str(path)
        self._bytes = map_file(path)
        self._members = _list_members(path, self._bytes)
        self._prefix = _find_pickle(path, self._members)
        self._tensors = self._read_tensors()

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def read(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        dtype = _DTYPES[tensor.dtype]
        values = self._read_member(f"data/{tensor.storage.key}")
        if any(size == 0 for size in tensor.shape):
            return np.empty(tensor.shape, dtype)
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
        count = len(values) // dtype.itemsize
        if tensor.offset + last >= count:
            raise CheckpointError(
                f"{self.location} is corrupt: tensor {name!r} reaches value {tensor.offset + last} "
                f"of a storage of {count}."
            )
        flat = values[: count * dtype.itemsize].view(dtype)[tensor.offset :]
        strides = [stride * dtype.itemsize for stride in tensor.strides]
        return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)

    def _read_tensors(self) -> dict[str, _Tensor]:
        if f"{self._prefix}byteorder" in self._members and self._read_member("byteorder").tobytes() != b"little":
            raise CheckpointError(f"{self.location} was written on a big-endian machine, which is not supported.")
        state = self._unpickle()
        strange = [key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, _Tensor))]
        if strange:
            raise CheckpointError(
                f"{self.location} is no flat dictionary of tensors: the entries {strange[:5]!r} are something else. "
                "Save model.state_dict() alone."
            )
        return dict(state)

    def _unpickle(self) -> dict[Any, Any]:
        data = self._read_member("data.pkl").tobytes()
        try:
            state = _TensorUnpickler(io.BytesIO(data)).load()
        except _RefusedError as error:
            raise CheckpointError(
                f"{self.location} is refused: its pickle asks for {error}, and only what builds tensors is allowed. "
                "If you trust the file, load it with torch and save model.state_dict() as safetensors."
            ) from error
        except Exception as error:  # a hostile or damaged pickle can raise anything
            raise CheckpointError(f"{self.location} is corrupt: its pickle cannot be read ({error}).") from error
        if not isinstance(state, dict):
            raise CheckpointError(f"{self.location} holds a {type(state).__name__}, expected a dictionary of tensors.")
        return state

    def _read_member(self, name: str) -> np.ndarray:
        """Gives a view of a member's bytes; torch never compresses them, so nothing here can swell in memory."""
        member = self._members.get(self._prefix + name)
        if member is None:
            raise CheckpointError(f"{self.location} is corrupt: {name} is missing from the archive.")
        data = member.header_offset + _LOCAL_HEADER.size
        if member.compress_type != zipfile.ZIP_STORED or not 0 <= member.header_offset <= data <= len(self._bytes):
            raise CheckpointError(f"{self.location} is corrupt: {name} is compressed or has no header in the archive.")
        start = data + sum(_LOCAL_HEADER.unpack(self._bytes[member.header_offset : data].tobytes()))
        return self._bytes[start : start + member.file_size]


def _list_members(path: Path, data: np.ndarray) -> dict[str, zipfile.ZipInfo]:
    if data[: len(_LEGACY_MAGIC)].tobytes() == _LEGACY_MAGIC:
        raise CheckpointError(
            f"{path} is in the format of torch before 1.6, which is not supported: "
            "load it with torch and save it again, best as safetensors."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return {member.filename: member for member in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or no PyTorch checkpoint (its zip directory is missing): download it again."
        ) from error


def _find_pickle(path: Path, members: dict[str, zipfile.ZipInfo]) -> str:
    """Gives the archive's folder, with its slash."""
    found = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(found) != 1:
        raise CheckpointError(
            f"{path} is no PyTorch checkpoint: expected one data.pkl in the archive, got {len(found)}."
        )
    return found[0].removesuffix("data.pkl")
