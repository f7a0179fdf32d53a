"""Bodies of /tokenize and /detokenize."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from jaxllm.server.protocol.chat import ChatMessage


class TokenizeRequest(BaseModel):
    """A text, or a conversation, to tokenise."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = Field(None, description="A name from /v1/models; null is the first.")
    prompt: str | None = Field(None, description="The text; give this or messages.")
    messages: list[ChatMessage] | None = Field(None, description="The conversation; give this or prompt.")
    add_special_tokens: bool | None = Field(None, description="Add BOS and the like; default is true for a prompt.")
    return_token_strs: bool | None = Field(None, description="Tell the vocabulary's spelling of each token, too.")
    add_generation_prompt: bool | None = Field(None, description="End with the header of the answer (the default).")
    continue_final_message: bool | None = Field(None, description="Leave the last message open.")
    chat_template: str | None = Field(None, description="A template to use; the server must allow it.")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Variables for the chat template.")
    tools: list[dict[str, Any]] | None = Field(None, description="Descriptions of functions, for the template.")


class TokenizeResponse(BaseModel):
    """The tokens."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(BaseModel):
    """Tokens to turn into text."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = Field(None, description="A name from /v1/models; null is the first.")
    tokens: list[int]


class DetokenizeResponse(BaseModel):
    """The text, special tokens included."""

    prompt: str
