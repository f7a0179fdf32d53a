"""Turns a stream of token ids into a stream of text that never has to be taken back."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from jaxllm.text.token_pieces import TokenPieces
from jaxllm.text.tokenizer import Tokenizer

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_MAX_CHARACTER_BYTES = 4
_CONTEXT_TOKENS = 8
_MAX_HELD_TOKENS = 8
"""A character takes at most four bytes, so text that is still broken after this many tokens stays broken."""


class Detokenizer:
    """The text of one sequence, growing with its tokens.

    A character whose bytes are spread over several tokens appears with the last of them. The text is what decoding
    prompt and output together gives beyond the prompt.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int],
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> None:
        self._decoder: _PieceDecoder | _WindowDecoder
        if tokenizer.pieces is not None:
            # Joining bytes puts no spaces between tokens, whichever they are.
            self._decoder = _PieceDecoder(tokenizer.pieces, prompt_token_ids, skip_special_tokens)
        else:
            self._decoder = _WindowDecoder(
                tokenizer, prompt_token_ids, skip_special_tokens, spaces_between_special_tokens
            )
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """All text so far; what still waits for the rest of a character is not in it."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    def append(self, token_ids: Sequence[int]) -> str:
        """Takes the next tokens and returns the text they add."""
        return self._keep(self._decoder.push(token_ids))

    def flush(self) -> str:
        """Returns the replacement characters for an unfinished character, at the end of the sequence."""
        return self._keep(self._decoder.finish())

    def _keep(self, new_text: str) -> str:
        if new_text:
            self._parts.append(new_text)
        return new_text


class _PieceDecoder:
    """Joins the bytes of single tokens: constant time per token."""

    def __init__(self, pieces: TokenPieces, prompt_token_ids: Sequence[int], skip_special_tokens: bool) -> None:
        self._pieces = pieces
        self._skips_special = skip_special_tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        prompt_tail = self._last_bytes(prompt_token_ids)
        # A prompt of ids may end in the middle of a character, which the output completes.
        self._utf8.decode(prompt_tail)
        self._drops_space = pieces.strips_leading_space and not prompt_tail

    def push(self, token_ids: Sequence[int]) -> str:
        text = self._utf8.decode(b"".join([self._visible(token_id) for token_id in token_ids]))
        if self._drops_space and text:
            self._drops_space = False
            return text.removeprefix(" ")
        return text

    def finish(self) -> str:
        return self._utf8.decode(b"", True)

    def _visible(self, token_id: int) -> bytes:
        if self._skips_special and self._pieces.is_special(token_id):
            return b""
        return self._pieces[token_id]

    def _last_bytes(self, token_ids: Sequence[int]) -> bytes:
        tail = b""
        for token_id in reversed(token_ids):
            tail = self._visible(token_id) + tail
            if len(tail) >= _MAX_CHARACTER_BYTES:
                break
        return tail


class _WindowDecoder:
    """Decodes a few tokens together with those before them, for tokenizers whose tokens have no bytes of their own.

    tokens  . . . c c c h h n
                  |     |   `- new
                  |     `- held: their text is not final yet
                  `- context: the tokens of the latest text, so that spaces come out right
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int],
        skip_special_tokens: bool,
        spaces_between_special_tokens: bool,
    ) -> None:
        self._tokenizer = tokenizer
        self._skips_special = skip_special_tokens
        self._spaces_between_special = spaces_between_special_tokens
        self._context, self._context_text = self._take_context(prompt_token_ids)
        self._held: list[int] = []

    def push(self, token_ids: Sequence[int]) -> str:
        return "".join([self._push_one(token_id) for token_id in token_ids])

    def finish(self) -> str:
        text = self._decode(self._context + self._held)
        new_text, self._context_text = text[len(self._context_text) :], text
        return new_text

    def _push_one(self, token_id: int) -> str:
        self._held.append(token_id)
        text = self._decode(self._context + self._held)
        is_patient = len(self._held) <= _MAX_HELD_TOKENS
        if len(text) <= len(self._context_text):
            # Tokens without text, such as skipped special ones, are not kept for ever.
            self._held = self._held if is_patient else []
            return ""
        if text.endswith(_REPLACEMENT) and is_patient:
            return ""
        new_text = text[len(self._context_text) :]
        self._context, self._held = self._held, []
        self._context_text = self._decode(self._context)
        return new_text

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(
            token_ids,
            skip_special_tokens=self._skips_special,
            spaces_between_special_tokens=self._spaces_between_special,
        )

    def _take_context(self, prompt_token_ids: Sequence[int]) -> tuple[list[int], str]:
        """The last tokens of the prompt, enough of them to have a text, and that text.

        Tokens of single bytes have none where the first of them are missing: the decoder takes them all for broken.
        """
        num_tokens = _CONTEXT_TOKENS
        while True:
            context = list(prompt_token_ids[-num_tokens:])
            text = self._whole_text(context)
            if text or num_tokens >= len(prompt_token_ids):
                return context, text
            num_tokens *= 8

    def _whole_text(self, token_ids: Sequence[int]) -> str:
        """The text before a last character that the output may complete."""
        for num_tokens in range(len(token_ids), max(len(token_ids) - _MAX_CHARACTER_BYTES, -1), -1):
            text = self._decode(token_ids[:num_tokens])
            if not text.endswith(_REPLACEMENT):
                return text
        return self._decode(token_ids).rstrip(_REPLACEMENT)
