"""From the engine's log-probability arrays to the dictionaries that users read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxllm.outputs import Logprob, PositionLogprobs

if TYPE_CHECKING:
    from jaxllm.steps import TokenLogprobs
    from jaxllm.text.tokenizer import Tokenizer


class TokenTexts:
    """The text of single tokens, remembered: top lists repeat the same ones over and over."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def __getitem__(self, token_id: int) -> str | None:
        """None without a tokenizer."""
        if self._tokenizer is None:
            return None
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = self._tokenizer.token_text(token_id)
        return text


def to_position_logprobs(entry: TokenLogprobs, count: int | None, texts: TokenTexts) -> PositionLogprobs:
    """The position's own token first, then its `count` most likely ones (-1: all); that token may be among them."""
    position = {entry.token_id: Logprob(entry.logprob, entry.rank, texts[entry.token_id])}
    num_top = len(entry.top_token_ids) if count == -1 else min(count or 0, len(entry.top_token_ids))
    top_ids, top_values = entry.top_token_ids[:num_top].tolist(), entry.top_logprobs[:num_top].tolist()
    for rank, (token_id, logprob) in enumerate(zip(top_ids, top_values, strict=True), start=1):
        if token_id != entry.token_id:
            position[token_id] = Logprob(logprob, rank, texts[token_id])
    return position
