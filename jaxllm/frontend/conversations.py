"""Conversations become prompts: which template renders them, and with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxllm.errors import ValidationError
from jaxllm.frontend.arguments import as_conversations
from jaxllm.frontend.progress import BarFactory, ProgressBar
from jaxllm.inputs import ParsedPrompt
from jaxllm.text.chat_template import load_chat_template, render_chat

if TYPE_CHECKING:
    from jaxllm.text.tokenizer import Tokenizer

Message = Mapping[str, Any]
"""One chat message: role, content, and what else the template reads."""


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """What a call of `chat` says besides the messages."""

    chat_template: str | None = None
    """A template's text, its file, or the name of one of the model's; None is the engine's or the model's own."""
    chat_template_content_format: str = "auto"
    """Whether the template reads contents as "string" or as "openai" parts."""
    add_generation_prompt: bool = True
    """End with the header of the assistant's turn."""
    continue_final_message: bool = False
    """Leave the last message open, so that the model goes on with it."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """Descriptions of functions, for the template."""
    chat_template_kwargs: Mapping[str, Any] | None = None
    """Variables of the template's own."""


class ChatRenderer:
    """Renders with a model's tokenizer and the engine's own template, if it was given one."""

    def __init__(self, tokenizer: Tokenizer | None, engine_template: str | None) -> None:
        self._tokenizer = tokenizer
        self._engine_template = engine_template

    def render(self, messages: Sequence[Message], options: ChatOptions) -> str:
        """The prompt; tokenise it without adding special tokens, as the template writes them itself."""
        if self._tokenizer is None:
            raise ValidationError("chat needs a tokenizer: skip_tokenizer_init must be False", parameter="messages")
        return render_chat(
            self._tokenizer,
            messages,
            chat_template=self._find_template(self._tokenizer, options.chat_template),
            add_generation_prompt=options.add_generation_prompt,
            continue_final_message=options.continue_final_message,
            tools=options.tools,
            content_format=options.chat_template_content_format,
            chat_template_kwargs=options.chat_template_kwargs,
        )

    def _find_template(self, tokenizer: Tokenizer, chosen: str | None) -> str | None:
        """The template's text, or its name if the model has several."""
        chosen = self._engine_template if chosen is None else chosen
        if isinstance(tokenizer.chat_template, dict) and chosen in tokenizer.chat_template:
            return chosen
        return load_chat_template(chosen)


def render_conversations(
    renderer: ChatRenderer, messages: Any, options: ChatOptions, use_tqdm: bool | BarFactory
) -> list[ParsedPrompt]:
    """The prompts of one conversation or many, under a bar."""
    conversations = as_conversations(messages)
    with ProgressBar(use_tqdm, total=len(conversations), description="Rendering conversations") as bar:
        rendered: list[ParsedPrompt] = []
        for conversation in conversations:
            rendered.append(ParsedPrompt(text=renderer.render(conversation, options), token_ids=None))
            bar.advance()
    return rendered
