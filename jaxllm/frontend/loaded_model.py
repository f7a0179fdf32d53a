"""What a loaded model tells about itself, to callers of either kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from jaxllm.config import EngineConfig
from jaxllm.errors import ValidationError
from jaxllm.frontend.conversations import ChatRenderer
from jaxllm.frontend.frontend import Frontend
from jaxllm.frontend.generation_defaults import recommended_sampling
from jaxllm.sampling_params import SamplingParams

if TYPE_CHECKING:
    from jaxllm.build import BuiltEngine
    from jaxllm.engine.metrics import EngineMetrics
    from jaxllm.text.tokenizer import Tokenizer


class LoadedModel(ABC):
    """An engine and its frontend. As a context manager it shuts down at the end."""

    def __init__(self, built: BuiltEngine) -> None:
        self._built = built
        self._frontend = Frontend(built)
        self._renderer = ChatRenderer(built.tokenizer, built.config.chat_template)

    @property
    def config(self) -> EngineConfig:
        """What the engine was built from."""
        return self._built.config

    @property
    def vocab_size(self) -> int:
        """Every token id is below this."""
        return self._built.model_config.vocab_size

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus output."""
        return self._built.model_config.max_model_len

    @property
    def num_pages(self) -> int:
        """Pages of the KV cache."""
        return self._built.runner.num_pages

    @property
    def startup_seconds(self) -> dict[str, float]:
        """What the phases of the start took: config, weights, compile."""
        times = self._built.startup_times
        return {"config": times.config, "weights": times.weights, "compile": times.compile}

    @property
    def num_programs_to_compile(self) -> int:
        """Programs that still compile in the background; until there are none, larger ones run in their place."""
        return self._built.runner.num_programs_to_compile

    def wait_until_compiled(self, timeout: float | None = None) -> bool:
        """Blocks until no program is left to compile in the background; False after `timeout` seconds.

        For measurements; requests need not wait.
        """
        return self._built.runner.wait_until_compiled(timeout)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The engine's own tokenizer; None with skip_tokenizer_init."""
        return self._built.tokenizer

    def get_tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""
        if self._built.tokenizer is None:
            raise ValidationError("there is no tokenizer: skip_tokenizer_init must be False", parameter="tokenizer")
        return self._built.tokenizer.hf

    def get_default_sampling_params(self) -> SamplingParams:
        """What a call without `sampling_params` uses; `clone` it to change values."""
        return self._frontend.default_sampling_params

    @property
    def recommended_sampling(self) -> Mapping[str, Any]:
        """The sampling values that the model's generation_config, or its override, gives; nothing else."""
        return recommended_sampling(self._built.generation_config, self._built.config)

    def get_metrics(self) -> EngineMetrics:
        """A snapshot of the engine's counters and gauges: one object with a field for each, not vLLM's list of
        metrics. It is there with disable_log_stats too."""
        return self._built.engine.metrics()

    def get_world_size(self, include_dp: bool = True) -> int:
        """How many devices the model is spread over; with or without data parallelism, which is not supported yet."""
        return self._built.config.tensor_parallel_size

    def save_orbax(self, directory: str | Path) -> None:
        """Writes the weights as they lie on the devices; `JaxLLM(model=directory)` restores them."""
        self._built.save_orbax(directory)

    @abstractmethod
    def shutdown(self) -> None:
        """Frees the device; later calls raise EngineDeadError, a second shutdown does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        config = self._built.config
        return f"{type(self).__name__}(model={config.model!r}, dtype={config.dtype!r}, device={config.device!r})"
