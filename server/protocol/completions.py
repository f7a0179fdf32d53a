"""Bodies of /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from jaxllm.server.protocol.generation import GenerationRequest
from jaxllm.server.protocol.refusals import Refused
from jaxllm.server.protocol.usage import Usage

PromptItem = str | list[int]


def _check_prompt(value: Any) -> list[PromptItem] | None:
    """All forms of a prompt become a list of texts and token lists."""
    if value is None or isinstance(value, str):
        return None if value is None else [value]
    if isinstance(value, list):
        if value and all(type(item) is int for item in value):
            return [value]
        if all(isinstance(item, str) for item in value):
            return list(value)
        if all(isinstance(item, list) and all(type(one) is int for one in item) for item in value):
            return list(value)
    raise ValueError("expected a string, a list of strings, a list of token ids, or a list of such lists")


_TOKENS = {"type": "array", "items": {"type": "integer"}}
_TEXT = {"type": "string"}
_PROMPT_SCHEMA = {
    "anyOf": [_TEXT, {"type": "array", "items": _TEXT}, _TOKENS, {"type": "array", "items": _TOKENS}, {"type": "null"}]
}


class CompletionRequest(GenerationRequest):
    """A request to complete one prompt or several."""

    prompt: Annotated[list[PromptItem] | None, BeforeValidator(_check_prompt), WithJsonSchema(_PROMPT_SCHEMA)] = Field(
        None, description="Texts or token ids to complete."
    )
    logprobs: int | None = Field(None, description="Log-probabilities of this many likeliest tokens; -1 is all.")

    suffix: Annotated[Any, Refused("filling in the middle", harmless=(None, ""))] = None
    prompt_embeds: Annotated[Any, Refused("prompts as embeddings")] = None
    mm_payload: Annotated[Any, Refused("prompts that are not text")] = None
    return_token_offsets: Annotated[Any, Refused("offsets of tokens", harmless=(None, False))] = None


class CompletionLogprobs(BaseModel):
    """Log-probabilities, by position of the text."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(BaseModel):
    """One completion."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None
    prompt_logprobs: list[dict[str, Any] | None] | None = None
    prompt_token_ids: list[int] | None = None


class CompletionResponse(BaseModel):
    """The answer to a completion request; streamed chunks have the same form, with one choice each."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    system_fingerprint: str | None = None
