"""Builders of small checkpoint files."""

import json
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from jaxllm.models.loading.source import ModelSource

LLAMA_CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8}


def make_source(path: Path, kind: Any = "hf") -> ModelSource:
    return ModelSource(name=str(path), path=path, kind=kind)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), path)
    return path


def make_hf_directory(path: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    write_json(path / "config.json", LLAMA_CONFIG)
    write_safetensors(path / "model.safetensors", tensors)
    return path


class FakeTorch:
    """Modules that pickle under the names of torch, to write what `torch.save` would without torch."""

    STORAGES = ("FloatStorage", "HalfStorage", "BFloat16Storage", "LongStorage", "BoolStorage")

    def __init__(self, monkeypatch: Any) -> None:
        torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
        for name in self.STORAGES:
            setattr(torch, name, type(name, (), {"__module__": "torch"}))
        for name in ("_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_tensor"):
            exec(f"def {name}(*arguments): ...", vars(utils))
        for module in (torch, utils):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        self.torch, self.utils = torch, utils

    def tensor(self, values: np.ndarray, **fields: Any) -> "FakeTensor":
        return FakeTensor(self, values, **fields)


class FakeTensor:
    """Pickles like a tensor; several may share one storage."""

    def __init__(self, fake: FakeTorch, storage: np.ndarray, **fields: Any) -> None:
        self.fake = fake
        self.storage = storage
        self.fields: dict[str, Any] = {
            "offset": 0,
            "shape": storage.shape,
            "strides": None,
            "is_parameter": False,
        } | fields
        if self.fields["strides"] is None:
            self.fields["strides"] = tuple(step // storage.itemsize for step in storage.strides)

    def __reduce__(self) -> Any:
        fields, utils = self.fields, self.fake.utils
        place = (fields["offset"], fields["shape"], fields["strides"])
        arguments: tuple[Any, ...] = (FakeStorage(self), *place, False, OrderedDict())
        if fields["is_parameter"]:
            plain = FakeTensor(self.fake, self.storage, **(fields | {"is_parameter": False}))
            return utils._rebuild_parameter, (plain, True, OrderedDict())
        return utils._rebuild_tensor_v2, arguments


class FakeStorage:
    def __init__(self, tensor: FakeTensor) -> None:
        self.torch = tensor.fake.torch
        self.values = tensor.storage

    @property
    def storage_class(self) -> Any:
        names = {"float32": "Float", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long", "bool": "Bool"}
        return getattr(self.torch, names[self.values.dtype.name] + "Storage")


def write_torch_file(path: Path, state: Any, *, compression: int = zipfile.ZIP_STORED, omit: str = "") -> Path:
    """Writes a state of `FakeTensor`s in the zip format of `torch.save`."""
    storages: dict[int, np.ndarray] = {}
    keys: dict[int, str] = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            if not isinstance(obj, FakeStorage):
                return None
            key = keys.setdefault(id(obj.values), str(len(keys)))
            storages[id(obj.values)] = obj.values
            return ("storage", obj.storage_class, key, "cpu", obj.values.size)

    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        pickled = path.with_suffix(".pkl")
        with pickled.open("wb") as file:
            Pickler(file, protocol=2).dump(state)
        archive.write(pickled, "archive/data.pkl")
        pickled.unlink()
        archive.writestr("archive/byteorder", "little")
        for identity, values in storages.items():
            if keys[identity] != omit:
                archive.writestr(f"archive/data/{keys[identity]}", np.ascontiguousarray(values).tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def write_pickle_archive(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    return path


GGUF_SIZES = {
    "block_count": 2,
    "context_length": 64,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
}


def write_gguf(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    *,
    architecture: str = "llama",
    quantization: gguf.GGMLQuantizationType | None = None,
    **metadata: Any,
) -> Path:
    """Writes small metadata of the architecture, changed by `metadata` (`__` for a dot, None to leave one out).

    Two-dimensional tensors are quantised when a type is given.
    """
    writer = gguf.GGUFWriter(path, architecture)
    values: dict[str, Any] = {f"{architecture}.{key}": value for key, value in GGUF_SIZES.items()}
    values[f"{architecture}.attention.layer_norm_rms_epsilon"] = 1e-5
    values |= {key.replace("__", "."): value for key, value in metadata.items()}
    for key, value in values.items():
        _add_metadata(writer, key, value)
    for name, array in tensors.items():
        if array.dtype == ml_dtypes.bfloat16:
            writer.add_tensor(name, array.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
        elif quantization is not None and array.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(array, quantization), raw_dtype=quantization)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_metadata(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case None:
            return
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)
