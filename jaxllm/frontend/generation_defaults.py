"""The sampling parameters of callers who give none: what the model's generation_config.json recommends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxllm.config import GENERATION_CONFIG_KEYS, EngineConfig
from jaxllm.errors import ValidationError
from jaxllm.sampling_params import SamplingParams


def recommended_sampling(generation_config: Mapping[str, Any], config: EngineConfig) -> dict[str, Any]:
    """The model's values, with `override_generation_config` on top, by the names of SamplingParams."""
    source = {} if config.generation_config == "jaxllm" else dict(generation_config)
    source |= config.override_generation_config
    values = {key: source[key] for key in GENERATION_CONFIG_KEYS if source.get(key) is not None}
    if "max_new_tokens" in values:
        values["max_tokens"] = values.pop("max_new_tokens")
    return values


def make_default_sampling_params(generation_config: Mapping[str, Any], config: EngineConfig) -> SamplingParams:
    """The recommended values; without any, `SamplingParams()`."""
    try:
        return SamplingParams(**recommended_sampling(generation_config, config))
    except ValidationError as error:
        raise ValidationError(
            f"the model's generation_config or override_generation_config is wrong: {error}; "
            "generation_config='jaxllm' does without the model's",
            parameter="generation_config",
        ) from error
