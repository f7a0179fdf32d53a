"""How many tokens an answer took."""

from __future__ import annotations

from pydantic import BaseModel


class PromptTokensDetails(BaseModel):
    """Where the prompt tokens came from."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens of all prompts and of all answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None
