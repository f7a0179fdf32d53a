"""Bodies of /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from jaxllm.server.protocol.generation import GenerationRequest
from jaxllm.server.protocol.refusals import Refused
from jaxllm.server.protocol.usage import Usage


class ChatMessage(BaseModel):
    """One message of the conversation; what else it holds goes to the chat template."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[str | dict[str, Any]] | None = None
    name: str | None = None

    def for_template(self) -> dict[str, Any]:
        """The message as given; reasoning under both its names, as templates read one or the other."""
        message = self.model_dump(exclude_unset=True)
        reasoning = message.get("reasoning") or message.get("reasoning_content")
        if reasoning is not None:
            message |= {"reasoning": reasoning, "reasoning_content": reasoning}
        return message


class ChatRequest(GenerationRequest):
    """A request for the next message of a conversation."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = Field(None, description="Longest answer, in tokens.")
    logprobs: bool | None = Field(None, description="Tell the log-probabilities of the answer's tokens.")
    top_logprobs: int | None = Field(None, description="And of this many likeliest tokens; -1 is all.")
    add_generation_prompt: bool | None = Field(None, description="Start a new message (the default).")
    continue_final_message: bool | None = Field(None, description="Go on with the last message instead.")
    documents: list[dict[str, Any]] | None = Field(None, description="Documents for the chat template.")
    chat_template: str | None = Field(None, description="A template to use; the server must allow it.")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Variables for the chat template.")
    return_prompt_text: bool | None = Field(None, description="Tell the prompt that the template made.")

    tools: Annotated[Any, Refused("tool calls")] = None
    tool_choice: Annotated[Any, Refused("tool calls", harmless=(None, "none"))] = None
    parallel_tool_calls: Annotated[Any, Refused("tool calls", harmless=(None, True, False))] = None
    functions: Annotated[Any, Refused("tool calls")] = None
    function_call: Annotated[Any, Refused("tool calls", harmless=(None, "none"))] = None
    reasoning_effort: Annotated[Any, Refused("reasoning")] = None
    include_reasoning: Annotated[Any, Refused("hiding of reasoning", harmless=(None, True))] = None
    modalities: Annotated[Any, Refused("answers that are not text", harmless=(None, ["text"]))] = None
    audio: Annotated[Any, Refused("answers that are not text")] = None
    media_io_kwargs: Annotated[Any, Refused("images, audio and video", harmless=(None, {}))] = None
    mm_processor_kwargs: Annotated[Any, Refused("images, audio and video", harmless=(None, {}))] = None
    web_search_options: Annotated[Any, Refused("web search")] = None
    verbosity: Annotated[Any, Refused("verbosity", harmless=(None, "medium"))] = None


class TopLogprob(BaseModel):
    """One of the likeliest tokens at a position."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """The token at a position, and the likeliest ones there."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities, by token of the answer."""

    content: list[TokenLogprob] | None
    refusal: None = None


class AnswerMessage(BaseModel):
    """The answer."""

    role: str
    content: str | None
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: list[Any] | None = None

    @model_serializer(mode="wrap")
    def _without_empty_tool_calls(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Clients take the key alone for calls."""
        body: dict[str, Any] = handler(self)
        if not self.tool_calls:
            del body["tool_calls"]
        return body


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class ChatResponse(BaseModel):
    """The answer to a chat request."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    service_tier: None = None
    system_fingerprint: str | None = None
    usage: Usage
    prompt_logprobs: list[dict[str, Any] | None] | None = None
    prompt_token_ids: list[int] | None = None
    prompt_text: str | None = None
