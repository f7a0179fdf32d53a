"""From the prompts and messages of a request to token ids that fit the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxllm.async_llm import AsyncJaxLLM
from jaxllm.errors import ValidationError
from jaxllm.inputs import TokenizationOptions
from jaxllm.sampling_params import MAX_N
from jaxllm.server.config import ServerConfig
from jaxllm.server.protocol.chat import ChatMessage
from jaxllm.server.protocol.completions import CompletionRequest, PromptItem
from jaxllm.server.protocol.generation import GenerationRequest
from jaxllm.validation import describe

MAX_CACHE_SALT_LENGTH = 128
_FORBIDDEN_IN_SALT = re.compile(r"[@/\\\0]")


@dataclass(frozen=True, kw_only=True)
class ServedPrompt:
    """One prompt, tokenised and cut."""

    text: str | None
    """None when only token ids were given, or when the prompt was cut."""
    token_ids: list[int]
    cache_salt: str | None

    @property
    def as_input(self) -> dict[str, Any]:
        """What `generate` takes."""
        optional = {"prompt": self.text, "cache_salt": self.cache_salt}
        given = {name: value for name, value in optional.items() if value is not None}
        return {"prompt_token_ids": self.token_ids, **given}


def check_prompts(request: CompletionRequest, config: ServerConfig) -> list[PromptItem]:
    """The prompts of a completion request: at least one, none empty, and no more than allowed."""
    prompts = request.prompt
    if not prompts or not all(prompts):
        raise ValidationError("prompt must be given and not be empty", parameter="prompt")
    if len(prompts) > config.max_completion_prompts:
        raise ValidationError(
            f"prompt must hold at most {config.max_completion_prompts} prompts, got {len(prompts)}", parameter="prompt"
        )
    if len(prompts) * (request.n or 1) > MAX_N:
        raise ValidationError(f"n times the number of prompts must be at most {MAX_N}", parameter="n")
    return prompts


def check_limits(request: GenerationRequest, config: ServerConfig) -> None:
    """What the server limits in every request."""
    if isinstance(request.stop, list) and len(request.stop) > config.max_stop_strings:
        raise ValidationError(
            f"stop must hold at most {config.max_stop_strings} strings, got {len(request.stop)}", parameter="stop"
        )
    salt = request.cache_salt
    if salt is not None and (not 1 <= len(salt) <= MAX_CACHE_SALT_LENGTH or _FORBIDDEN_IN_SALT.search(salt)):
        raise ValidationError(
            f"cache_salt must have 1 to {MAX_CACHE_SALT_LENGTH} characters, none of them @, /, \\ or NUL, got "
            f"{describe(salt)}",
            parameter="cache_salt",
        )


async def tokenize_prompt(
    llm: AsyncJaxLLM, item: PromptItem, request: GenerationRequest, *, add_special_tokens: bool, max_tokens: int | None
) -> ServedPrompt:
    """The token ids of one text or token list, cut as the request asks, and not too long for the model."""
    options = TokenizationOptions.parse(
        {"truncate_prompt_tokens": request.truncate_prompt_tokens, "truncation_side": request.truncation_side},
        add_special_tokens=add_special_tokens if request.add_special_tokens is None else request.add_special_tokens,
    )
    if isinstance(item, str) and not options.cuts:
        _check_text_length(item, llm)
    token_ids = await llm.tokenize(item, options)
    room = max(llm.max_model_len - (max_tokens or 1), 1)
    cut = options.cut("prompt", token_ids, keep=None, max_input_tokens=room)
    _check_length(len(cut), llm.max_model_len)
    text = item if isinstance(item, str) and len(cut) == len(token_ids) else None
    return ServedPrompt(text=text, token_ids=cut, cache_salt=request.cache_salt)


async def render_messages(
    llm: AsyncJaxLLM,
    config: ServerConfig,
    messages: Sequence[ChatMessage],
    *,
    chat_template: str | None,
    chat_template_kwargs: dict[str, Any],
    add_generation_prompt: bool | None,
    continue_final_message: bool | None,
    tools: list[dict[str, Any]] | None = None,
) -> str:
    """The prompt that the chat template makes of a conversation."""
    if chat_template is not None:
        _check_template(llm, config, chat_template)
    return await llm.render_chat(
        [message.for_template() for message in messages],
        chat_template=chat_template,
        chat_template_content_format=config.chat_template_content_format,
        add_generation_prompt=True if add_generation_prompt is None else add_generation_prompt,
        continue_final_message=bool(continue_final_message),
        chat_template_kwargs={**config.default_chat_template_kwargs, **chat_template_kwargs},
        tools=tools,
    )


def _check_template(llm: AsyncJaxLLM, config: ServerConfig, chat_template: str) -> None:
    if not config.trust_request_chat_template:
        raise ValidationError(
            "chat_template is not accepted: start the server with --trust-request-chat-template to allow it",
            parameter="chat_template",
        )
    named = llm.tokenizer.chat_template if llm.tokenizer is not None else None
    is_name = isinstance(named, dict) and chat_template in named
    # Anything else might be the path of a file, which is the server's own business.
    if not is_name and "{" not in chat_template:
        raise ValidationError(
            f"chat_template must be a Jinja template or the name of one of the model's, got {describe(chat_template)}",
            parameter="chat_template",
        )


def _check_text_length(text: str, llm: AsyncJaxLLM) -> None:
    """Refuses a text that is too long whatever its tokens are: to tokenise megabytes takes seconds."""
    longest = 0 if llm.tokenizer is None else llm.tokenizer.longest_token
    if longest and len(text) > llm.max_model_len * longest:
        raise ValidationError(
            f"This model's maximum context length is {llm.max_model_len} tokens, and the prompt has {len(text):,} "
            f"characters, where no token has more than {longest}",
            parameter="input_tokens",
        )


def _check_length(num_tokens: int, max_model_len: int) -> None:
    if num_tokens == 0:
        raise ValidationError("prompt must have at least one token, got none", parameter="prompt")
    if num_tokens >= max_model_len:
        raise ValidationError(
            f"This model's maximum context length is {max_model_len} tokens, and the prompt has {num_tokens}: it must "
            "leave room for one token at least",
            parameter="input_tokens",
        )
