"""From the fields of a request to the parameters of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxllm.beam_search_params import BeamSearchParams
from jaxllm.config import EngineConfig
from jaxllm.errors import ValidationError
from jaxllm.sampling_params import RequestOutputKind, SamplingParams
from jaxllm.server.protocol.chat import ChatRequest
from jaxllm.server.protocol.completions import CompletionRequest
from jaxllm.server.protocol.generation import GenerationRequest
from jaxllm.validation import check_int, describe

COMPLETION_MAX_TOKENS = 16
"""Longest completion of a request that doesn't say; the rule of the API."""

SAMPLING_FIELDS = (
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "min_tokens",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stream_interval",
)
"""Fields that mean the same in a request and in SamplingParams."""

BEAM_FIELDS = (
    "temperature",
    "length_penalty",
    "include_stop_str_in_output",
    "ignore_eos",
    "skip_special_tokens",
    "allowed_token_ids",
)
"""Fields that mean the same in a request and in BeamSearchParams."""

_NEUTRAL_IN_BEAM_SEARCH: dict[str, tuple[Any, ...]] = {
    "top_p": (1.0,),
    "top_k": (0, -1),
    "min_p": (0.0,),
    "seed": (-1,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
    "repetition_penalty": (1.0,),
    "logit_bias": ({},),
    "bad_words": ([],),
    "stop": ([],),
    "stop_token_ids": ([],),
    "min_tokens": (0,),
    "spaces_between_special_tokens": (True,),
    "stream_interval": (1,),
    "prompt_logprobs": (),
    "logprobs": (False,),
    "top_logprobs": (0,),
}
"""Fields that a beam search can't apply, and the values that ask for nothing; null is one always."""


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """What the server uses where a request says nothing."""

    values: Mapping[str, Any]
    """By the names of SamplingParams, max_tokens among them only if the model recommends a length."""
    max_tokens_limit: int | None
    """No request gets more: the server's own `max_new_tokens`."""
    max_model_len: int

    @classmethod
    def make(cls, recommended: Mapping[str, Any], config: EngineConfig, max_model_len: int) -> SamplingDefaults:
        """From the model's recommendation and the engine's settings."""
        limit = config.override_generation_config.get("max_new_tokens")
        return cls(values=dict(recommended), max_tokens_limit=limit, max_model_len=max_model_len)


def completion_params(request: CompletionRequest, defaults: SamplingDefaults) -> SamplingParams:
    """How to sample a completion. With max_tokens 0, which echoes the prompt, they ask for one token."""
    _check_stream(request)
    if request.max_tokens == 0 and not request.echo:
        raise ValidationError("max_tokens must be at least 1, or 0 together with echo, got 0", parameter="max_tokens")
    prompt_logprobs = request.prompt_logprobs
    if request.echo and request.logprobs is not None:
        prompt_logprobs = _larger(request.logprobs, prompt_logprobs)
    max_tokens = completion_max_tokens(request, defaults) or 1
    return _sampling_params(request, defaults, max_tokens, request.logprobs, prompt_logprobs)


def completion_max_tokens(request: CompletionRequest, defaults: SamplingDefaults) -> int | None:
    """The longest completion."""
    asked = COMPLETION_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    return _max_tokens("max_tokens", asked, None, defaults)


def chat_params(request: ChatRequest, defaults: SamplingDefaults) -> SamplingParams:
    """How to sample an answer; without a length it may take what the context has left."""
    _check_stream(request)
    if request.top_logprobs is not None:
        check_int("top_logprobs", request.top_logprobs, low=-1)
    if request.top_logprobs and not request.logprobs:
        raise ValidationError("top_logprobs needs logprobs to be true", parameter="top_logprobs")
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return _sampling_params(request, defaults, chat_max_tokens(request, defaults), logprobs, request.prompt_logprobs)


def chat_max_tokens(request: ChatRequest, defaults: SamplingDefaults) -> int | None:
    """The longest answer; None is as long as the context allows."""
    name = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    asked = getattr(request, name)
    return _max_tokens(name, asked, defaults.values.get("max_tokens"), defaults)


def beam_params(request: GenerationRequest, max_tokens: int | None, defaults: SamplingDefaults) -> BeamSearchParams:
    """How to search; `max_tokens` None is the model's length, which the engine's room limits."""
    if request.stream:
        raise ValidationError("stream must be false with use_beam_search", parameter="stream")
    for name, neutral in _NEUTRAL_IN_BEAM_SEARCH.items():
        value = getattr(request, name, None)
        if value is not None and not any(type(value) is type(one) and value == one for one in neutral):
            raise ValidationError(f"{name} can't be applied by a beam search, got {describe(value)}", parameter=name)
    check_int("n", 1 if request.n is None else request.n, low=1)
    values = {"temperature": 1.0} | {name: defaults.values[name] for name in BEAM_FIELDS if name in defaults.values}
    values |= _given(request, BEAM_FIELDS)
    length = defaults.max_model_len if max_tokens is None else max_tokens
    return BeamSearchParams(beam_width=request.n or 1, max_tokens=length, **values)


def _sampling_params(
    request: GenerationRequest,
    defaults: SamplingDefaults,
    max_tokens: int | None,
    logprobs: int | None,
    prompt_logprobs: int | None,
) -> SamplingParams:
    if request.length_penalty not in (None, 1.0):
        raise ValidationError("length_penalty needs use_beam_search", parameter="length_penalty")
    values = dict(defaults.values) | _given(request, SAMPLING_FIELDS)
    return SamplingParams.from_optional(
        **values
        | {
            "max_tokens": max_tokens,
            "logprobs": logprobs,
            "prompt_logprobs": prompt_logprobs,
            "output_kind": RequestOutputKind.DELTA if request.stream else RequestOutputKind.FINAL_ONLY,
        }
    )


def _given(request: GenerationRequest, names: tuple[str, ...]) -> dict[str, Any]:
    values = {name: getattr(request, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _max_tokens(name: str, asked: int | None, recommended: int | None, defaults: SamplingDefaults) -> int | None:
    """Whatever of it the context has no room for is cut by the engine, which knows the prompt's length."""
    if asked is not None and asked > defaults.max_model_len:
        raise ValidationError(
            f"{name} must be at most {defaults.max_model_len}, the model's context length, got {asked}", parameter=name
        )
    lengths = [recommended if asked is None else asked, defaults.max_tokens_limit]
    return min((length for length in lengths if length is not None), default=None)


def _check_stream(request: GenerationRequest) -> None:
    if request.stream_options is not None and not request.stream:
        raise ValidationError("stream_options needs stream to be true", parameter="stream_options")
    if request.stream and request.prompt_logprobs is not None:
        raise ValidationError("prompt_logprobs can't be streamed", parameter="prompt_logprobs")


def _larger(one: int, other: int | None) -> int:
    if other is None:
        return one
    return -1 if -1 in (one, other) else max(one, other)
