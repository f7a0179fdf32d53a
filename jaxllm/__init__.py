"""LLM inference and serving on JAX. Public names are imported when first used, so `import jaxllm` is cheap."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxllm.async_llm import AsyncJaxLLM as AsyncJaxLLM
    from jaxllm.async_llm import AsyncLLM as AsyncLLM
    from jaxllm.async_llm import AsyncLLMEngine as AsyncLLMEngine
    from jaxllm.beam_search_params import BeamSearchParams as BeamSearchParams
    from jaxllm.config import EngineConfig as EngineConfig
    from jaxllm.engine_args import AsyncEngineArgs as AsyncEngineArgs
    from jaxllm.engine_args import EngineArgs as EngineArgs
    from jaxllm.errors import CheckpointError as CheckpointError
    from jaxllm.errors import DeviceError as DeviceError
    from jaxllm.errors import EngineDeadError as EngineDeadError
    from jaxllm.errors import EngineStalledError as EngineStalledError
    from jaxllm.errors import JaxLLMError as JaxLLMError
    from jaxllm.errors import ModelNotFoundError as ModelNotFoundError
    from jaxllm.errors import UnsupportedModelError as UnsupportedModelError
    from jaxllm.errors import ValidationError as ValidationError
    from jaxllm.inputs import PromptType as PromptType
    from jaxllm.inputs import TextPrompt as TextPrompt
    from jaxllm.inputs import TokensPrompt as TokensPrompt
    from jaxllm.llm import LLM as LLM
    from jaxllm.llm import JaxLLM as JaxLLM
    from jaxllm.outputs import BeamSearchOutput as BeamSearchOutput
    from jaxllm.outputs import BeamSearchSequence as BeamSearchSequence
    from jaxllm.outputs import CompletionOutput as CompletionOutput
    from jaxllm.outputs import Logprob as Logprob
    from jaxllm.outputs import RequestOutput as RequestOutput
    from jaxllm.sampling_params import RequestOutputKind as RequestOutputKind
    from jaxllm.sampling_params import SamplingParams as SamplingParams

__version__ = "0.1.0"

_MODULE_OF_NAME = {
    "AsyncEngineArgs": "jaxllm.engine_args",
    "AsyncJaxLLM": "jaxllm.async_llm",
    "AsyncLLM": "jaxllm.async_llm",
    "AsyncLLMEngine": "jaxllm.async_llm",
    "BeamSearchOutput": "jaxllm.outputs",
    "BeamSearchParams": "jaxllm.beam_search_params",
    "BeamSearchSequence": "jaxllm.outputs",
    "CheckpointError": "jaxllm.errors",
    "CompletionOutput": "jaxllm.outputs",
    "DeviceError": "jaxllm.errors",
    "EngineArgs": "jaxllm.engine_args",
    "EngineConfig": "jaxllm.config",
    "EngineDeadError": "jaxllm.errors",
    "EngineStalledError": "jaxllm.errors",
    "JaxLLM": "jaxllm.llm",
    "JaxLLMError": "jaxllm.errors",
    "LLM": "jaxllm.llm",
    "Logprob": "jaxllm.outputs",
    "ModelNotFoundError": "jaxllm.errors",
    "PromptType": "jaxllm.inputs",
    "RequestOutput": "jaxllm.outputs",
    "RequestOutputKind": "jaxllm.sampling_params",
    "SamplingParams": "jaxllm.sampling_params",
    "TextPrompt": "jaxllm.inputs",
    "TokensPrompt": "jaxllm.inputs",
    "UnsupportedModelError": "jaxllm.errors",
    "ValidationError": "jaxllm.errors",
}

__all__ = ["__version__", *_MODULE_OF_NAME]  # noqa: PLE0604 - the names are strings, ruff can't see them


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module 'jaxllm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF_NAME})
