"""Chat templates: where they come from, and messages rendered with them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any

from jaxllm.errors import ValidationError
from jaxllm.text.chat_messages import ContentFormat, prepare_messages
from jaxllm.text.template_analysis import detect_content_format, find_variables, takes_both_formats
from jaxllm.text.tokenizer import Tokenizer

_logger = logging.getLogger(__name__)

_RESERVED_NAMES = frozenset(
    (
        *("messages", "conversation", "tools", "documents", "add_generation_prompt", "continue_final_message"),
        *("chat_template", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
        *("return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens"),
    )
)
_ALWAYS_PASSED = frozenset(("documents",))


@lru_cache(maxsize=64)
def load_chat_template(chat_template: str | PathLike[str] | None, *, is_literal: bool = False) -> str | None:
    """The template's text: the contents of the file at that path, or the text itself if it looks like a template.
    `is_literal` says that it is text."""
    if chat_template is None:
        return None
    if is_literal:
        if not isinstance(chat_template, str):
            raise _wrong_template(f"a literal chat template must be a string, got {type(chat_template).__name__}")
        return chat_template
    try:
        return Path(chat_template).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        if isinstance(chat_template, str) and any(mark in chat_template for mark in "{}\n"):
            return chat_template
        raise _wrong_template(
            f"expected the path of a chat template or its text, got {str(chat_template)!r}, which is no readable file "
            f"({error}) and has no Jinja braces"
        ) from error


def resolve_chat_template(
    tokenizer: Tokenizer, explicit: str | None, tools: Sequence[Mapping[str, Any]] | None = None
) -> str:
    """The template to use: `explicit` (a template, or the name of one of the model's), else the model's own, of
    several the one for tools if there are tools."""
    own = tokenizer.chat_template
    named = own if isinstance(own, dict) else {}
    if explicit is not None:
        return named.get(explicit, explicit)
    if isinstance(own, str):
        return own
    if tools and "tool_use" in named:
        return named["tool_use"]
    if "default" in named:
        return named["default"]
    if named:
        raise _wrong_template(
            f"the model has several chat templates and no default: pass chat_template= with one of {sorted(named)}"
        )
    raise _wrong_template(
        "the model has no chat template: pass chat_template= (--chat-template to a server) with the path of a Jinja "
        "template or its text, or use generate() (/v1/completions) with a prompt that is already in the model's format"
    )


def render_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    chat_template: str | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    content_format: ContentFormat | str = "auto",
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """The prompt that the template makes of the messages. It holds its special tokens, so encode it with
    `add_special_tokens=False`."""
    if add_generation_prompt and continue_final_message:
        raise ValidationError(
            "continue_final_message goes on with the last message and add_generation_prompt starts a new one: "
            "set only one of them",
            parameter="continue_final_message",
        )
    template = resolve_chat_template(tokenizer, chat_template, tools)
    prepared = prepare_messages(
        messages,
        _choose_format(content_format, template),
        keeps_strings=content_format == "auto" and takes_both_formats(template),
    )
    if continue_final_message and not prepared[-1]["content"]:
        raise ValidationError(
            "continue_final_message needs a last message with content to go on from", parameter="continue_final_message"
        )
    options = _accepted_options(template, chat_template_kwargs or {})
    hf = tokenizer.hf
    try:
        rendered = hf.apply_chat_template(
            prepared,
            tools=None if tools is None else [dict(tool) for tool in tools],
            chat_template=template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tokenize=False,
            **options,
        )
    except Exception as error:
        # Templates reject messages with raise_exception, and fail in any way on data they didn't foresee.
        raise ValidationError(
            f"the chat template can't render these messages: {error}", parameter="messages"
        ) from error
    return str(rendered)


def _choose_format(content_format: ContentFormat | str, template: str) -> ContentFormat:
    if content_format == "auto":
        return detect_content_format(template)
    if content_format == "string":
        return "string"
    if content_format == "openai":
        return "openai"
    raise ValidationError(
        f"chat_template_content_format must be 'auto', 'string' or 'openai', got {content_format!r}",
        parameter="chat_template_content_format",
    )


def _accepted_options(template: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the template reads; others are dropped with a warning, as one client serves many models."""
    reserved = sorted(_RESERVED_NAMES & options.keys() - _ALWAYS_PASSED)
    if reserved:
        raise ValidationError(
            f"chat_template_kwargs can't hold {reserved}: these are parameters of their own",
            parameter="chat_template_kwargs",
        )
    accepted = find_variables(template) | _ALWAYS_PASSED
    unread = sorted(options.keys() - accepted)
    if unread:
        _logger.warning("The chat template doesn't read %s of chat_template_kwargs; ignored.", unread)
    return {name: value for name, value in options.items() if name in accepted}


def _wrong_template(message: str) -> ValidationError:
    return ValidationError(message, parameter="chat_template")
