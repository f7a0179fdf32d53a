"""/tokenize and /detokenize: what the model's tokenizer makes of texts, conversations and token ids."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends

from jaxllm.errors import ValidationError
from jaxllm.inputs import TokenizationOptions
from jaxllm.server.content_type import require_json
from jaxllm.server.context import ServerContext
from jaxllm.server.prompts import render_messages
from jaxllm.server.protocol.tokenization import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)

if TYPE_CHECKING:
    from jaxllm.text.tokenizer import Tokenizer


def tokenization_routes(context: ServerContext) -> APIRouter:
    """The endpoints over one engine."""
    router = APIRouter(tags=["tokenization"], dependencies=[Depends(require_json)])

    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> TokenizeResponse:
        """The tokens of a text or a conversation."""
        context.check_model(body.model)
        tokenizer = _tokenizer(context)
        text = await _text(context, body)
        adds_special = body.messages is None if body.add_special_tokens is None else body.add_special_tokens
        token_ids = await context.llm.tokenize(text, TokenizationOptions(add_special_tokens=adds_special))
        return TokenizeResponse(
            count=len(token_ids),
            max_model_len=context.llm.max_model_len,
            tokens=token_ids,
            token_strs=tokenizer.convert_ids_to_tokens(token_ids) if body.return_token_strs else None,
        )

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> DetokenizeResponse:
        """The text of tokens."""
        context.check_model(body.model)
        tokenizer = _tokenizer(context)
        wrong = next((one for one in body.tokens if not 0 <= one < context.llm.vocab_size), None)
        if wrong is not None:
            raise ValidationError(
                f"tokens must hold ids from 0 to {context.llm.vocab_size - 1}, got {wrong}", parameter="tokens"
            )
        text = await asyncio.to_thread(tokenizer.decode, body.tokens, skip_special_tokens=False)
        return DetokenizeResponse(prompt=text)

    return router


def _tokenizer(context: ServerContext) -> Tokenizer:
    if context.llm.tokenizer is None:
        raise ValidationError("this server has no tokenizer: it was started with --skip-tokenizer-init")
    return context.llm.tokenizer


async def _text(context: ServerContext, body: TokenizeRequest) -> str:
    if (body.prompt is None) == (body.messages is None):
        raise ValidationError("give either prompt or messages", parameter="prompt")
    if body.prompt is not None:
        return body.prompt
    return await render_messages(
        context.llm,
        context.config,
        body.messages or [],
        chat_template=body.chat_template,
        chat_template_kwargs=dict(body.chat_template_kwargs or {}),
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        tools=body.tools,
    )
