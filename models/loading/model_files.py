"""A model as it lies on disk: its configurations, and its weights for a given set of parameters."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxllm.config import EngineConfig
from jaxllm.errors import ValidationError
from jaxllm.models.config import ModelConfig
from jaxllm.models.gemma3 import NORM_OFFSET
from jaxllm.models.loading.cache_scales import ScaledCheckpoint
from jaxllm.models.loading.checkpoint import (
    Checkpoint,
    RenamedCheckpoint,
    open_checkpoint,
    read_generation_config,
    read_hf_config,
)
from jaxllm.models.loading.load import WeightTarget, dummy_weights, load_weights
from jaxllm.models.loading.orbax import find_tokenizer_files, load_orbax, save_orbax
from jaxllm.models.loading.source import ModelSource, resolve_model


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """Where a model lies and what its configuration files say."""

    source: ModelSource
    hf_config: dict[str, Any]
    """config.json with the user's overrides, or its equivalent made of GGUF metadata."""
    model_config: ModelConfig
    generation_config: dict[str, Any]
    """generation_config.json, or {}."""

    @classmethod
    def find(cls, config: EngineConfig, *, wants_weights: bool = True) -> ModelFiles:
        """Finds, and from a hub downloads, the model that the configuration names; without weights if not wanted."""
        source = resolve_model(
            config.model,
            revision=config.revision,
            download_dir=config.download_dir,
            hf_token=config.hf_token,
            wants_weights=wants_weights,
        )
        hf_config = _overridden(read_hf_config(source), config)
        # EOS ids are read from the model's generation config even where "jaxllm" drops its other values.
        own = config.generation_config in ("auto", "jaxllm")
        return cls(
            source=source,
            hf_config=hf_config,
            model_config=ModelConfig.from_hf(hf_config),
            generation_config=read_generation_config(source if own else resolve_model(config.generation_config)),
        )

    def load(
        self,
        load_format: str,
        targets: Sequence[WeightTarget],
        *,
        has_scaled_cache: bool,
        seed: int,
        progress: Callable[[int], None],
    ) -> list[jax.Array]:
        """The targets' arrays, from the files or, for "dummy", random.

        With `has_scaled_cache` the checkpoint's scales for keys and values, if it has any, are worked into them.
        """
        if load_format == "dummy":
            return dummy_weights(targets, seed=seed)
        if self.source.kind == "orbax":
            return load_orbax(self.source.path, targets)
        if load_format == "orbax":
            raise ValidationError(
                f"load_format='orbax' needs a directory that save_orbax wrote, got {self.source.path}",
                parameter="load_format",
            )
        checkpoint = _with_model_prefix(open_checkpoint(self.source, load_format=load_format))
        norm_offset = NORM_OFFSET if self.model_config.architecture.startswith("Gemma") else 0.0
        checkpoint = ScaledCheckpoint(checkpoint, is_applied=has_scaled_cache, norm_offset=norm_offset)
        ignored = ("lm_head.weight",) if self.model_config.tie_word_embeddings else ()
        return load_weights(checkpoint, targets, ignored=ignored, progress=progress)

    def save(
        self, directory: str | Path, targets: Sequence[WeightTarget], arrays: Sequence[jax.Array], tokenizer: Any
    ) -> None:
        """Writes weights, configurations and tokenizer as a directory for `JaxLLM(model=directory)`.

        `tokenizer` is a Hugging Face tokenizer, saved where the source has no tokenizer files of its own (GGUF).
        """
        named = {target.name: array for target, array in zip(targets, arrays, strict=True)}
        with tempfile.TemporaryDirectory() as temporary:
            folder = self.source.path
            if self.source.kind == "gguf":
                folder = Path(temporary)
                if tokenizer is not None:
                    tokenizer.save_pretrained(folder)
            save_orbax(
                directory,
                named,
                config=self.hf_config,
                generation_config=self.generation_config,
                tokenizer_files=find_tokenizer_files(folder),
            )


def _overridden(hf_config: dict[str, Any], config: EngineConfig) -> dict[str, Any]:
    if callable(config.hf_overrides):
        return dict(config.hf_overrides(dict(hf_config)))
    return {**hf_config, **(config.hf_overrides or {})}


def _with_model_prefix(checkpoint: Checkpoint) -> Checkpoint:
    """Some checkpoints were saved from the bare model: their names lack the leading `model.`."""
    if any(name.startswith("model.") for name in checkpoint.names()):
        return checkpoint
    return RenamedCheckpoint(checkpoint, lambda name: name if name.startswith("lm_head.") else f"model.{name}")
