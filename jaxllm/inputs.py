"""The forms in which prompts come in, and the one form in which they go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

from jaxllm.errors import ValidationError
from jaxllm.sampling_checks import check_truncation
from jaxllm.validation import check_bool, check_choice, check_int, check_list, check_str, describe, fail


class TextPrompt(TypedDict):
    """A prompt that still has to be tokenised."""

    prompt: str
    cache_salt: NotRequired[str]


class TokensPrompt(TypedDict):
    """A tokenised prompt; `prompt` is only handed back."""

    prompt_token_ids: Sequence[int]
    prompt: NotRequired[str]
    cache_salt: NotRequired[str]


Prompt = str | Sequence[int] | TextPrompt | TokensPrompt | Mapping[str, Any]
"""A text, token ids, or a mapping with the keys of TextPrompt or TokensPrompt."""

PromptType = Prompt
"""The name that users of vLLM know."""

_TEXT_KEYS = ("prompt", "prompt_token_ids", "cache_salt")
_UNSUPPORTED_KEYS = (
    "prompt_embeds",
    "multi_modal_data",
    "mm_processor_kwargs",
    "multi_modal_uuids",
    "encoder_prompt",
    "decoder_prompt",
)


@dataclass(frozen=True, kw_only=True)
class ParsedPrompt:
    """One prompt as given: text, token ids, or both."""

    text: str | None
    token_ids: list[int] | None
    cache_salt: str | None = None


@dataclass(frozen=True, kw_only=True)
class TokenizationOptions:
    """What `tokenization_kwargs` may say."""

    add_special_tokens: bool = True
    """Let the tokenizer add its BOS (and the like) to text prompts."""
    truncate_prompt_tokens: int | None = None
    """Keep this many tokens; -1 is as many as leave room for the output."""
    truncation_side: Literal["left", "right"] = "left"
    """The end that is cut off."""
    max_length: int | None = None
    """Longest prompt: with truncation the rest is cut off, without it a longer one is an error."""
    truncation: bool = False
    padding: bool = False
    """Must be False: prompts are never padded."""

    def __post_init__(self) -> None:
        for name in ("add_special_tokens", "truncation", "padding"):
            object.__setattr__(self, name, check_bool(name, getattr(self, name)))
        if self.padding:
            raise ValidationError("padding must be False: prompts are never padded", parameter="padding")
        if self.truncation and self.max_length is None and self.truncate_prompt_tokens is None:
            raise ValidationError("truncation needs max_length or truncate_prompt_tokens", parameter="truncation")
        check_choice("truncation_side", self.truncation_side, ("left", "right"))
        if self.truncate_prompt_tokens is not None:
            check_truncation("truncate_prompt_tokens", self.truncate_prompt_tokens)
        if self.max_length is not None:
            check_int("max_length", self.max_length, low=1)

    @classmethod
    def parse(cls, options: Mapping[str, Any] | None, **defaults: Any) -> TokenizationOptions:
        """From a user's mapping, where None means the default."""
        if options is None:
            return cls(**defaults)
        if not isinstance(options, Mapping):
            raise fail("tokenization_kwargs", "a mapping", options)
        unknown = [name for name in options if name not in cls.__dataclass_fields__]
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise ValidationError(
                f"tokenization_kwargs may hold {known}; got {unknown[0]!r}", parameter="tokenization_kwargs"
            )
        return cls(**(defaults | {name: value for name, value in options.items() if value is not None}))

    @property
    def cuts(self) -> bool:
        """Whether a long prompt is cut."""
        return self.truncation or self.truncate_prompt_tokens is not None

    def cut(self, name: str, token_ids: list[int], *, keep: int | None, max_input_tokens: int) -> list[int]:
        """The part of the prompt that stays; `keep` is the request's own truncate_prompt_tokens."""
        kept = self.truncate_prompt_tokens if self.truncate_prompt_tokens is not None else keep
        kept = max_input_tokens if kept == -1 else kept
        if self.max_length is not None:
            if len(token_ids) > self.max_length and kept is None and not self.truncation:
                raise ValidationError(
                    f"{name} must have at most max_length ({self.max_length}) tokens, got {len(token_ids)}; "
                    "truncation=True would cut it",
                    parameter="prompt",
                )
            kept = self.max_length if kept is None else min(kept, self.max_length)
        if kept is None or len(token_ids) <= kept:
            return token_ids
        return token_ids[len(token_ids) - kept :] if self.truncation_side == "left" else token_ids[:kept]


def parse_prompts(prompts: Any) -> list[ParsedPrompt]:
    """One prompt or many, in any form; a flat list of integers is one tokenised prompt."""
    if isinstance(prompts, (str, Mapping)):
        return [parse_prompt("prompts", prompts)]
    items = _as_list("prompts", prompts)
    if items and not isinstance(items[0], (str, Mapping, list, tuple)) and not hasattr(items[0], "__len__"):
        return [parse_prompt("prompts", items)]
    return [parse_prompt(f"prompts[{index}]", item) for index, item in enumerate(items)]


def parse_prompt(name: str, prompt: Any) -> ParsedPrompt:
    """A single prompt in any form."""
    if isinstance(prompt, str):
        return ParsedPrompt(text=prompt, token_ids=None)
    if isinstance(prompt, Mapping):
        return _parse_mapping(name, prompt)
    return ParsedPrompt(text=None, token_ids=_check_token_ids(name, prompt))


def _parse_mapping(name: str, prompt: Mapping[str, Any]) -> ParsedPrompt:
    for key, value in prompt.items():
        if key in _UNSUPPORTED_KEYS and value:
            raise ValidationError(f"{name}: {key} is not supported yet, got {describe(value)}", parameter=str(key))
        if key not in _TEXT_KEYS and key not in _UNSUPPORTED_KEYS:
            raise ValidationError(f"{name} may have the keys {', '.join(_TEXT_KEYS)}; got {key!r}", parameter="prompts")
    text, token_ids, salt = (prompt.get(key) for key in _TEXT_KEYS)
    if text is None and token_ids is None:
        raise ValidationError(f"{name} must have 'prompt' or 'prompt_token_ids', got neither", parameter="prompts")
    if text is not None and not isinstance(text, str):
        raise fail(f"{name}['prompt']", "a string", text)
    return ParsedPrompt(
        text=text,
        token_ids=None if token_ids is None else _check_token_ids(f"{name}['prompt_token_ids']", token_ids),
        cache_salt=None if salt is None else check_str(f"{name}['cache_salt']", salt),
    )


def _as_list(name: str, value: Any) -> list[Any]:
    """A list from any iterable; arrays become nested lists of plain numbers."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise fail(name, "a string, a list of token ids, a mapping, or a list of those", value)
    return list(value)


def _check_token_ids(name: str, value: Any) -> list[int]:
    expected = "a string, a list of token ids or a mapping"
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list) and all(type(item) is int for item in value):
        return list(value)
    return check_list(name, value, check_int, expected)
