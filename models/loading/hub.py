"""Models of the Hugging Face and ModelScope hubs as local directories."""

import importlib
import os
from pathlib import Path
from typing import Any

from jaxllm.errors import ModelNotFoundError
from jaxllm.models.loading.embedded import list_embedded_models

_OTHER_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
_SAFETENSORS = ["*.safetensors"]
_TORCH_FILES = ["pytorch_model*.bin"]
# Weights a second time in another form, and files of other tools, lie in subfolders or under this name.
_UNWANTED = ["*/*", "consolidated*"]


def download_model(
    model: str,
    *,
    revision: str | None,
    download_dir: str | None,
    hf_token: bool | str | None,
    wants_weights: bool = True,
) -> Path:
    """Gives the directory with the model's config, tokenizer and weights: `.bin` weights only where no others exist."""
    if uses_modelscope():
        return _download("ModelScope", model, _modelscope_options(revision, download_dir), wants_weights)
    options = {"revision": revision, "cache_dir": download_dir, "token": hf_token}
    # Read here and not only by the library at its import, so that a change within the process counts.
    endpoint = os.environ.get("HF_ENDPOINT") or None
    return _download("Hugging Face", model, options | {"endpoint": endpoint}, wants_weights)


def uses_modelscope() -> bool:
    """Tells whether `JAXLLM_USE_MODELSCOPE` or `VLLM_USE_MODELSCOPE` is `true` or `1`."""
    values = (os.environ.get(name, "") for name in ("JAXLLM_USE_MODELSCOPE", "VLLM_USE_MODELSCOPE"))
    return any(value.strip().lower() in ("true", "1") for value in values)


def ways_out() -> str:
    """Gives what to do when a model is not to be had, to end an error message."""
    names = ", ".join(model.name for model in list_embedded_models())
    return f"Download it elsewhere and pass the directory, or use an embedded model: {names}."


def _modelscope_options(revision: str | None, download_dir: str | None) -> dict[str, Any]:
    options = {"revision": revision, "cache_dir": download_dir}
    return {name: value for name, value in options.items() if value is not None}


def _download(hub: str, model: str, options: dict[str, Any], wants_weights: bool) -> Path:
    fetch = _snapshot_download(hub)
    try:
        if not wants_weights:
            return Path(fetch(model, allow_patterns=_OTHER_FILES, ignore_patterns=_UNWANTED, **options))
        path = Path(fetch(model, allow_patterns=_OTHER_FILES + _SAFETENSORS, ignore_patterns=_UNWANTED, **options))
        if not any(path.glob(_SAFETENSORS[0])):
            path = Path(fetch(model, allow_patterns=_OTHER_FILES + _TORCH_FILES, ignore_patterns=_UNWANTED, **options))
    except Exception as error:  # the HTTP client's exceptions differ between releases of these libraries
        raise ModelNotFoundError(_explain(hub, model, options.get("revision"), error)) from error
    if not any(path.glob(_SAFETENSORS[0])) and not any(path.glob(_TORCH_FILES[0])):
        raise ModelNotFoundError(
            f"The {hub} model {model!r} has no *.safetensors or pytorch_model*.bin weights. "
            "If it has .gguf files, download one and pass its path."
        )
    return path


def _snapshot_download(hub: str) -> Any:
    name = "modelscope" if hub == "ModelScope" else "huggingface_hub"
    try:
        return importlib.import_module(name).snapshot_download
    except ImportError as error:
        raise ModelNotFoundError(
            f"The {hub} hub was asked for (environment variable JAXLLM_USE_MODELSCOPE or VLLM_USE_MODELSCOPE), "
            f"but the package {name} is not installed: pip install {name}"
        ) from error


def _explain(hub: str, model: str, revision: str | None, error: Exception) -> str:
    kind = type(error).__name__
    if kind == "GatedRepoError":
        return f"The {hub} model {model!r} is gated: ask for access on its page and pass hf_token or set HF_TOKEN."
    if kind == "RevisionNotFoundError":
        return f"The {hub} model {model!r} has no revision {revision!r}."
    if kind in ("RepositoryNotFoundError", "HFValidationError"):
        return (
            f"{model!r} is no local path, no embedded model, and no model on the {hub} hub "
            f"(if it is private, pass hf_token or set HF_TOKEN). {ways_out()}"
        )
    if kind == "LocalEntryNotFoundError":
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        return f"The {hub} hub cannot be reached{cause} and {model!r} is not in its local cache. {ways_out()}"
    reason = " ".join(str(error).split())[:300]
    return f"Cannot get {model!r} from the {hub} hub ({kind}: {reason}). {ways_out()}"
