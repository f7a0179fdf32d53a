"""A model's config and its named tensors, whatever the files they come in.

The gguf package takes a third of a second to import, so its users are imported where a GGUF file is opened.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxllm.errors import CheckpointError, ModelNotFoundError, ValidationError
from jaxllm.models.loading.safetensors_file import SafetensorsFile
from jaxllm.models.loading.source import ModelSource
from jaxllm.models.loading.torch_file import TorchFile

LOAD_FORMATS = ("auto", "safetensors", "pt", "gguf")


class Checkpoint(Protocol):
    """Named host tensors in Hugging Face layout."""

    location: str
    """The file or directory, for error messages."""

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def read(self, name: str) -> np.ndarray:
        """Gives one tensor, maybe a read-only view of a mapped file; safe to call from several threads."""
        ...


class ShardedCheckpoint:
    """Several files' tensors under one roof."""

    def __init__(self, location: str, parts: Sequence[Checkpoint]) -> None:
        self.location = location
        self._parts = {name: part for part in parts for name in part.names()}

    def names(self) -> list[str]:
        return list(self._parts)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._parts[name].shape(name)

    def read(self, name: str) -> np.ndarray:
        return self._parts[name].read(name)


class RenamedCheckpoint:
    """The same tensors under other names, for checkpoints that differ from their family's usual prefixes."""

    def __init__(self, checkpoint: Checkpoint, rename: Callable[[str], str]) -> None:
        self.location = checkpoint.location
        self._checkpoint = checkpoint
        self._original = {rename(name): name for name in checkpoint.names()}

    def names(self) -> list[str]:
        return list(self._original)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._checkpoint.shape(self._original[name])

    def read(self, name: str) -> np.ndarray:
        return self._checkpoint.read(self._original[name])


def read_hf_config(source: ModelSource) -> dict[str, Any]:
    """Gives config.json, or its equivalent made from GGUF metadata."""
    if source.kind == "gguf":
        from jaxllm.models.loading import gguf_config, gguf_file

        return gguf_config.gguf_hf_config(gguf_file.GgufFile(source.path))
    path = source.path / "config.json"
    if not path.exists():
        raise ModelNotFoundError(f"{source.path} has no config.json: expected a model in Hugging Face layout.")
    return _read_json(path)


def read_generation_config(source: ModelSource) -> dict[str, Any]:
    """Gives generation_config.json, `{}` if there is none; from GGUF the ids that begin and end a text."""
    if source.kind == "gguf":
        from jaxllm.models.loading import gguf_config, gguf_file

        return gguf_config.gguf_generation_config(gguf_file.GgufFile(source.path))
    path = source.path / "generation_config.json"
    return _read_json(path) if path.exists() else {}


def open_checkpoint(source: ModelSource, *, load_format: str = "auto") -> Checkpoint:
    """Opens the weight files; `auto` prefers safetensors to `.bin`."""
    if load_format not in LOAD_FORMATS:
        raise ValidationError(
            f"load_format must be one of {', '.join(LOAD_FORMATS)}, got {load_format!r}.", parameter="load_format"
        )
    if source.kind == "orbax":
        raise ValidationError(f"{source.path} is an Orbax checkpoint: it is restored, not opened.", parameter="model")
    if (source.kind == "gguf") != (load_format == "gguf") and load_format != "auto":
        raise ValidationError(
            f"load_format={load_format!r} does not fit {source.path}, which is of kind {source.kind!r}.",
            parameter="load_format",
        )
    if source.kind == "gguf":
        from jaxllm.models.loading import gguf_checkpoint, gguf_file

        return gguf_checkpoint.GgufCheckpoint(gguf_file.GgufFile(source.path))
    return _open_directory(source.path, load_format)


def _open_directory(path: Path, load_format: str) -> Checkpoint:
    if load_format in ("auto", "safetensors") and (files := _weight_files(path, "model", "safetensors")):
        return _join(path, [SafetensorsFile(file) for file in files])
    if load_format in ("auto", "pt") and (files := _weight_files(path, "pytorch_model", "bin")):
        return _join(path, [TorchFile(file) for file in files])
    wanted = {"safetensors": "*.safetensors", "pt": "pytorch_model*.bin"}.get(load_format)
    raise CheckpointError(f"{path} has no weight files: expected {wanted or '*.safetensors or pytorch_model*.bin'}.")


def _weight_files(path: Path, stem: str, extension: str) -> list[Path]:
    single, index = path / f"{stem}.{extension}", path / f"{stem}.{extension}.index.json"
    if single.exists():
        return [single]
    if index.exists():
        return _indexed_files(index)
    pattern = "*.safetensors" if extension == "safetensors" else f"{stem}*.bin"
    # Mistral's repositories hold all weights a second time under this name.
    return sorted(file for file in path.glob(pattern) if not file.name.startswith("consolidated"))


def _indexed_files(index: Path) -> list[Path]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map from tensor names to files.")
    files = [index.parent / name for name in sorted(set(weight_map.values()))]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise CheckpointError(f"{index.parent} lacks weight files that {index.name} lists: {', '.join(missing)}.")
    return files


def _join(path: Path, parts: Sequence[Checkpoint]) -> Checkpoint:
    return parts[0] if len(parts) == 1 else ShardedCheckpoint(str(path), parts)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Cannot read {path}: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected a JSON object.")
    return value
