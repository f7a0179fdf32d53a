"""The bytes that single tokens stand for, where a tokenizer's decoder allows to say so.

Byte-level and SentencePiece decoders join the bytes of the tokens and nothing else, so streamed text can be made with
one dictionary look-up per token instead of decoding a window of tokens again and again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer as RustTokenizer

_SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"


class TokenPieces:
    """Bytes by token id, computed when first asked for."""

    def __init__(self, rust: RustTokenizer, *, to_bytes: Callable[[str], bytes], strips_leading_space: bool) -> None:
        self.strips_leading_space = strips_leading_space
        """The decoder drops one space at the very start of a text."""
        self._rust = rust
        self._to_bytes = to_bytes
        self._special_ids = frozenset(
            token_id for token_id, token in rust.get_added_tokens_decoder().items() if token.special
        )
        self._pieces: dict[int, bytes] = {}

    def is_special(self, token_id: int) -> bool:
        """Whether `skip_special_tokens` leaves the token out."""
        return token_id in self._special_ids

    def __getitem__(self, token_id: int) -> bytes:
        """The token's bytes; none for an id that no token has."""
        piece = self._pieces.get(token_id)
        if piece is None:
            token = self._rust.id_to_token(token_id)
            piece = self._pieces[token_id] = b"" if token is None else self._to_bytes(token)
        return piece


def find_token_pieces(rust: RustTokenizer) -> TokenPieces | None:
    """The pieces of a tokenizer whose decoder merely joins bytes; None for any other decoder."""
    if rust.decoder is None:
        return None
    decoder: dict[str, Any] = json.loads(rust.decoder.__getstate__())
    if decoder["type"] == "ByteLevel":
        return TokenPieces(rust, to_bytes=_byte_level_bytes, strips_leading_space=False)
    if decoder["type"] != "Sequence":
        return None
    steps = decoder["decoders"]
    if [step["type"] for step in steps[:3]] != ["Replace", "ByteFallback", "Fuse"] or not _replaces_mark(steps[0]):
        return None
    if len(steps) == 3:
        return TokenPieces(rust, to_bytes=_sentencepiece_bytes, strips_leading_space=False)
    if len(steps) == 4 and steps[3] == {"type": "Strip", "content": " ", "start": 1, "stop": 0}:
        return TokenPieces(rust, to_bytes=_sentencepiece_bytes, strips_leading_space=True)
    return None


def _replaces_mark(step: dict[str, Any]) -> bool:
    return bool(step["pattern"] == {"String": _SPACE_MARK} and step["content"] == " ")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: every byte as a visible character. Bytes that are visible in Latin-1 stand for themselves, the
    others follow from U+0100 on in ascending order."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    alphabet = {chr(byte): byte for byte in visible}
    hidden = (byte for byte in range(256) if byte not in set(visible))
    return alphabet | {chr(0x100 + index): byte for index, byte in enumerate(hidden)}


_ALPHABET = _byte_alphabet()


def _byte_level_bytes(token: str) -> bytes:
    try:
        return bytes([_ALPHABET[character] for character in token])
    except KeyError:
        # An added token is stored as plain text.
        return token.encode()


def _sentencepiece_bytes(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass
    return token.replace(_SPACE_MARK, " ").encode()
