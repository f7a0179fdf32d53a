"""From parsed prompts to token ids that the model can take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxllm.errors import ValidationError
from jaxllm.inputs import ParsedPrompt, TokenizationOptions

if TYPE_CHECKING:
    from jaxllm.text.tokenizer import Tokenizer

_TEXTS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class TokenizedPrompt:
    """One prompt as the engine takes it."""

    text: str | None
    """None when only token ids were given."""
    token_ids: list[int]
    cache_salt: str | None


def tokenize_prompts(
    prompts: Sequence[ParsedPrompt],
    tokenizer: Tokenizer | None,
    options: TokenizationOptions,
    on_progress: Callable[[int], None],
) -> list[list[int]]:
    """The token ids of each prompt; `on_progress` hears how many more are done."""
    results = [prompt.token_ids for prompt in prompts]
    texts = [(index, prompt.text) for index, prompt in enumerate(prompts) if prompt.token_ids is None]
    if texts and tokenizer is None:
        raise ValidationError(
            "prompts must be token ids, as skip_tokenizer_init is True; got a text", parameter="prompts"
        )
    on_progress(len(prompts) - len(texts))
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        part = texts[start : start + _TEXTS_AT_ONCE]
        assert tokenizer is not None, "checked above"
        encoded = tokenizer.encode_batch([text or "" for _, text in part], options.add_special_tokens)
        for (index, _), token_ids in zip(part, encoded, strict=True):
            results[index] = token_ids
        on_progress(len(part))
    return [token_ids or [] for token_ids in results]


def check_prompt_length(name: str, num_tokens: int, max_model_len: int) -> None:
    """A prompt has a token at least, and leaves room for one more in the model's length."""
    if num_tokens == 0:
        raise ValidationError(f"{name} must have at least one token, got an empty prompt", parameter="prompt")
    if num_tokens >= max_model_len:
        raise ValidationError(
            f"{name} must have at most {max_model_len - 1} tokens (max_model_len {max_model_len} less one to "
            f"generate), got {num_tokens}",
            parameter="prompt",
        )


def check_text_length(name: str, text: str, tokenizer: Tokenizer, max_model_len: int) -> None:
    """Refuses a text that is too long whatever its tokens are: to tokenise megabytes takes seconds."""
    longest = tokenizer.longest_token
    if len(text) > max_model_len * longest:
        raise ValidationError(
            f"{name} must have at most {max_model_len - 1} tokens (max_model_len {max_model_len} less one to "
            f"generate), got a text of {len(text):,} characters, where no token has more than {longest}",
            parameter="prompt",
        )


def check_prompt_vocabulary(name: str, token_ids: Sequence[int], vocab_size: int) -> None:
    """Every token id of a prompt exists."""
    low, high = min(token_ids), max(token_ids)
    if low < 0 or high >= vocab_size:
        raise ValidationError(
            f"{name} must hold token ids from 0 to {vocab_size - 1}, got {low if low < 0 else high}", parameter="prompt"
        )
