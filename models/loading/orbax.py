"""A converted model on disk: Orbax arrays, with the configs and the tokenizer's files beside them."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint

from jaxllm.errors import CheckpointError, ValidationError
from jaxllm.models.loading.load import WeightTarget
from jaxllm.models.loading.source import ORBAX_METADATA

_TOKENIZER_PATTERNS = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.model",
    "*.tiktoken",
)
_FORMAT_VERSION = 1
_WEIGHTS = "weights"


def save_orbax(
    directory: str | Path,
    arrays: Mapping[str, jax.Array],
    *,
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any],
    tokenizer_files: Sequence[Path] = (),
) -> None:
    """Writes a directory that `resolve_model` takes: arrays by our parameter names, sharded as they are.

    The directory must be new or empty. The file that marks it as complete comes last.
    """
    path = Path(directory).expanduser().resolve()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValidationError(
            f"{path} exists and is not empty: save_orbax needs a new directory.", parameter="directory"
        )
    path.mkdir(parents=True, exist_ok=True)
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / _WEIGHTS, dict(arrays))
    for file in tokenizer_files:
        shutil.copy(file, path / file.name)
    _write_json(path / "config.json", config)
    _write_json(path / "generation_config.json", generation_config)
    described = {name: {"shape": list(array.shape), "dtype": array.dtype.name} for name, array in arrays.items()}
    _write_json(path / ORBAX_METADATA, {"format_version": _FORMAT_VERSION, "arrays": described})


def find_tokenizer_files(directory: Path) -> list[Path]:
    """Gives the files of a directory in Hugging Face layout from which its tokenizer and chat template are made."""
    return sorted({file for pattern in _TOKENIZER_PATTERNS for file in directory.glob(pattern) if file.is_file()})


def load_orbax(directory: str | Path, targets: Sequence[WeightTarget]) -> list[jax.Array]:
    """Gives the targets' arrays in order, each device reading its part; shardings and dtypes may be others."""
    path = Path(directory).expanduser().resolve()
    _check_arrays(path, targets)
    tree = {
        target.name: jax.ShapeDtypeStruct(target.shape, np.dtype(target.dtype), sharding=target.sharding)
        for target in targets
    }
    try:
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            arrays = checkpointer.restore(path / _WEIGHTS, tree)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"The Orbax checkpoint {path} is damaged or incomplete: {error}.") from error
    return [arrays[target.name] for target in targets]


def _check_arrays(path: Path, targets: Sequence[WeightTarget]) -> None:
    metadata = _read_metadata(path)
    saved = {name: tuple(entry["shape"]) for name, entry in metadata["arrays"].items()}
    wanted = {target.name: target.shape for target in targets}
    problems = [f"{name} is missing" for name in wanted.keys() - saved.keys()]
    problems += [f"{name} is unexpected" for name in saved.keys() - wanted.keys()]
    problems += [
        f"{name} is {saved[name]}, expected {shape}"
        for name, shape in wanted.items()
        if name in saved and saved[name] != shape
    ]
    if problems:
        shown = ", ".join(sorted(problems)[:10]) + (f" and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise CheckpointError(f"The arrays of {path} do not fit the model: {shown}.")


def _read_metadata(path: Path) -> dict[str, Any]:
    file = path / ORBAX_METADATA
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
        version, _ = metadata["format_version"], metadata["arrays"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"Cannot read {file}: {error}.") from error
    if version != _FORMAT_VERSION:
        raise CheckpointError(f"{file} has the format version {version}, this jaxllm reads {_FORMAT_VERSION}.")
    return metadata


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
