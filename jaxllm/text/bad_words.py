"""Bad words as token ids, the form in which sampling bans them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jaxllm.errors import ValidationError
from jaxllm.text.tokenizer import Tokenizer

MAX_BAD_WORDS = 128
"""Largest number of token sequences that one request may ban."""


def tokenize_bad_words(tokenizer: Tokenizer, bad_words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Every token sequence that spells one of the words, at the start of a text or after a space."""
    sequences = tuple(dict.fromkeys(sequence for word in bad_words for sequence in _spellings(tokenizer, word)))
    if len(sequences) > MAX_BAD_WORDS:
        raise ValidationError(
            f"bad_words become {len(sequences)} token sequences, at most {MAX_BAD_WORDS} are allowed",
            parameter="bad_words",
        )
    return sequences


def _spellings(tokenizer: Tokenizer, word: str) -> Iterable[tuple[int, ...]]:
    bare = word.lstrip() or word
    for text in (bare, f" {bare}"):
        token_ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        if not token_ids:
            raise ValidationError(f"bad_words: {word!r} has no tokens", parameter="bad_words")
        yield token_ids
