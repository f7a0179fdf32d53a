"""Log-probabilities in the forms of the API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxllm.outputs import Logprob, PositionLogprobs, RequestOutput

if TYPE_CHECKING:
    from jaxllm.text.tokenizer import Tokenizer

LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON doesn't have."""

_CONTINUATION_MASK, _CONTINUATION = 0xC0, 0x80
"""A byte of UTF-8 that continues a character has these bits."""


class TokenNames:
    """How tokens are written: by their text, or as "token_id:7"."""

    def __init__(self, tokenizer: Tokenizer | None, *, as_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids or tokenizer is None
        self._special_ids = frozenset() if tokenizer is None else tokenizer.all_special_ids

    def name(self, token_id: int) -> str:
        """The token as the client reads it."""
        return f"token_id:{token_id}" if self._as_ids else self.text(token_id)

    def text(self, token_id: int) -> str:
        """The token's own text; half a character is a replacement character."""
        return "" if self._tokenizer is None else self._tokenizer.token_text(token_id)

    def prompt(self, output: RequestOutput) -> str:
        """The prompt's text as it was given, or what its tokens say, special ones included."""
        if output.prompt is not None:
            return output.prompt
        if self._tokenizer is None:
            return ""
        return self._tokenizer.decode(output.prompt_token_ids, skip_special_tokens=False)

    def content(self, token_id: int) -> bytes | None:
        """The token's bytes, which may be half a character; None without a tokenizer."""
        if self._tokenizer is None:
            return None
        if self._tokenizer.pieces is None:
            return self._tokenizer.token_text(token_id).encode()
        return self._tokenizer.pieces[token_id]

    def num_characters(self, token_id: int, text: str, start: int) -> int:
        """How many characters the token begins in `text`, where it would stand at `start`; special ones may be
        left out of it."""
        content = self.content(token_id)
        if content is None or (token_id in self._special_ids and not text.startswith(self.text(token_id), start)):
            return 0
        return sum(byte & _CONTINUATION_MASK != _CONTINUATION for byte in content)


def clamp(logprob: float) -> float:
    """The value as JSON can say it, which has no infinity and no NaN."""
    return logprob if logprob > LOWEST_LOGPROB else LOWEST_LOGPROB


def top_entries(position: PositionLogprobs, count: int) -> list[tuple[int, Logprob]]:
    """The `count` likeliest tokens of a position in their order; -1 is all that are there."""
    ranked = sorted(position.items(), key=lambda item: item[1].rank or 0)
    return ranked if count == -1 else [item for item in ranked if (item[1].rank or 0) <= count][:count]


def completion_logprobs(
    token_ids: Sequence[int],
    positions: Sequence[PositionLogprobs | None],
    *,
    count: int,
    names: TokenNames,
    text: str,
    offset: int,
) -> dict[str, Any]:
    """The logprobs object of /v1/completions for tokens whose text is `text`, which begins at `offset`.

    A position without log-probabilities, the first of a prompt, has null in its places.
    """
    offsets: list[int] = []
    values: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    num_characters = 0
    for token_id, position in zip(token_ids, positions, strict=True):
        offsets.append(offset + min(num_characters, len(text)))
        num_characters += names.num_characters(token_id, text, num_characters)
        values.append(None if position is None else clamp(position[token_id].logprob))
        tops.append(None if position is None else _top_dictionary(token_id, position, count, names))
    return {
        "text_offset": offsets,
        "token_logprobs": values,
        "tokens": [names.name(token_id) for token_id in token_ids],
        "top_logprobs": tops,
    }


def chat_logprobs(
    token_ids: Sequence[int], positions: Sequence[PositionLogprobs], *, count: int, names: TokenNames
) -> dict[str, Any]:
    """The logprobs object of /v1/chat/completions."""
    content = []
    for token_id, position in zip(token_ids, positions, strict=True):
        top = [_chat_entry(one, entry, names) for one, entry in top_entries(position, count)]
        content.append({**_chat_entry(token_id, position[token_id], names), "top_logprobs": top})
    return {"content": content, "refusal": None}


def prompt_logprobs(positions: Sequence[PositionLogprobs | None] | None) -> list[dict[str, Any] | None] | None:
    """The prompt_logprobs of both APIs: an object by token id for each position."""
    if positions is None:
        return None
    return [None if position is None else _by_token_id(position) for position in positions]


def _by_token_id(position: PositionLogprobs) -> dict[str, Any]:
    return {
        str(token_id): {
            "logprob": clamp(entry.logprob),
            "rank": entry.rank,
            "decoded_token": entry.decoded_token,
        }
        for token_id, entry in position.items()
    }


def _top_dictionary(token_id: int, position: PositionLogprobs, count: int, names: TokenNames) -> dict[str, float]:
    """The likeliest tokens, and the position's own if it is not among them."""
    entries = [*top_entries(position, count), (token_id, position[token_id])]
    return {names.name(one): clamp(entry.logprob) for one, entry in entries}


def _chat_entry(token_id: int, entry: Logprob, names: TokenNames) -> dict[str, Any]:
    content = names.content(token_id)
    return {
        "token": names.name(token_id),
        "logprob": clamp(entry.logprob),
        "bytes": None if content is None else list(content),
    }
