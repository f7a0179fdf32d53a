"""Where a model lies: from what the user wrote to a path and what is there."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxllm.errors import ModelNotFoundError, ValidationError
from jaxllm.models.loading.embedded import find_embedded_model
from jaxllm.models.loading.hub import download_model, ways_out

ORBAX_METADATA = "jaxllm.json"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

SourceKind = Literal["hf", "gguf", "orbax"]


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model on the local disk."""

    name: str
    """What the user wrote."""
    path: Path
    """A directory in Hugging Face layout, a `.gguf` file, or a directory that `save_orbax` wrote."""
    kind: SourceKind


def resolve_model(
    model: str,
    *,
    revision: str | None = None,
    download_dir: str | None = None,
    hf_token: bool | str | None = None,
    wants_weights: bool = True,
) -> ModelSource:
    """Finds a local directory or `.gguf` file, an embedded model, or a model of a hub (downloaded), in this order.

    `revision`, `download_dir` and `hf_token` are for hubs; a `revision` of anything else is refused. Without
    `wants_weights` a hub is asked for configurations and tokenizer only.
    """
    if not isinstance(model, str) or not model:
        raise ValidationError(
            f"model must be a path, a hub id or an embedded model's name, got {model!r}.", parameter="model"
        )
    path = Path(model).expanduser()
    if path.exists():
        _refuse_revision(model, "a local path", revision)
        return _local_source(model, path)
    if embedded := find_embedded_model(model):
        _refuse_revision(model, "an embedded model", revision)
        return _local_source(model, embedded.materialize())
    if model.endswith(".gguf") or not _HUB_ID.fullmatch(model) or model.startswith("."):
        raise ModelNotFoundError(f"There is no file or directory {model}, and it is no hub id. {ways_out()}")
    path = download_model(
        model, revision=revision, download_dir=download_dir, hf_token=hf_token, wants_weights=wants_weights
    )
    return ModelSource(name=model, path=path, kind="hf")


def _refuse_revision(model: str, what: str, revision: str | None) -> None:
    if revision is not None:
        raise ValidationError(
            f"revision is for models of a hub, but {model!r} is {what}; got revision={revision!r}.",
            parameter="revision",
        )


def _local_source(model: str, path: Path) -> ModelSource:
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelNotFoundError(f"{path} is a file, expected a directory or a .gguf file.")
        return ModelSource(name=model, path=path, kind="gguf")
    if (path / ORBAX_METADATA).exists():
        return ModelSource(name=model, path=path, kind="orbax")
    if (path / "config.json").exists():
        return ModelSource(name=model, path=path, kind="hf")
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return ModelSource(name=model, path=files[0], kind="gguf")
    if files:
        names = ", ".join(file.name for file in files)
        raise ModelNotFoundError(f"{path} has several GGUF files: pass one of {names} with its path.")
    raise ModelNotFoundError(f"{path} has no config.json and no .gguf file: expected a model in Hugging Face layout.")
