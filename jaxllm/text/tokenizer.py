"""Text to token ids and back: one interface over Hugging Face tokenizers and those built from GGUF files."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer as RustTokenizer

from jaxllm.errors import ValidationError
from jaxllm.text.token_pieces import TokenPieces, find_token_pieces


class Tokenizer(ABC):
    """What the engine needs of a tokenizer."""

    is_fast: bool
    """Whether encoding runs in native code, on several threads for batches."""
    bos_token_id: int | None
    """First token of a prompt, if the model has one."""
    eos_token_id: int | None
    """Ends a text."""
    extra_eos_token_ids: tuple[int, ...]
    """More ids that end a generation, known from a GGUF file. Hugging Face models list theirs in
    generation_config.json instead."""
    chat_template: str | dict[str, str] | None
    """The model's chat template, or several by name."""

    @cached_property
    @abstractmethod
    def hf(self) -> Any:
        """The Hugging Face tokenizer, as users know it; for a GGUF file made when first asked for."""

    @cached_property
    @abstractmethod
    def pieces(self) -> TokenPieces | None:
        """Bytes of single tokens, None where tokens can only be decoded together."""

    @cached_property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""

    @cached_property
    @abstractmethod
    def max_token_id(self) -> int:
        """The largest id that a token has."""

    @cached_property
    @abstractmethod
    def longest_token(self) -> int:
        """Characters of the longest token: no text has fewer tokens than its own characters over these."""

    @cached_property
    @abstractmethod
    def all_special_ids(self) -> frozenset[int]:
        """Ids that `skip_special_tokens` leaves out."""

    @cached_property
    @abstractmethod
    def added_tokens(self) -> dict[int, str]:
        """Text of the tokens that are matched before the vocabulary, special ones included."""

    @abstractmethod
    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of `text`."""

    @abstractmethod
    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """The ids of each text."""

    @abstractmethod
    def decode(
        self,
        token_ids: Sequence[int],
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> str:
        """The text of the ids; an id without a token gives nothing."""

    @abstractmethod
    def convert_ids_to_tokens(self, token_ids: Sequence[int]) -> list[str]:
        """The vocabulary's own spelling of each id, "" for an id without a token."""

    def token_text(self, token_id: int) -> str:
        """The text of one token on its own, its leading space kept."""
        if self.pieces is None:
            return self.decode([token_id], skip_special_tokens=False)
        return self.pieces[token_id].decode("utf-8", "replace")


class FastTokenizer(Tokenizer):
    """A tokenizer that runs in native code."""

    is_fast = True

    def __init__(
        self,
        rust: RustTokenizer,
        *,
        make_hf: Callable[[], Any],
        bos_token_id: int | None,
        eos_token_id: int | None,
        extra_eos_token_ids: tuple[int, ...] = (),
        chat_template: str | dict[str, str] | None,
    ) -> None:
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.extra_eos_token_ids = extra_eos_token_ids
        self.chat_template = chat_template
        self._rust = rust
        self._make_hf = make_hf
        self._hf: Any = None
        self._hf_lock = threading.Lock()
        self._clear_batch_settings()

    @cached_property
    def hf(self) -> Any:
        # Several threads may ask first, and only one of them may import transformers.
        with self._hf_lock:
            if self._hf is None:
                self._hf = self._make_hf()
            return self._hf

    @cached_property
    def pieces(self) -> TokenPieces | None:
        return find_token_pieces(self._rust)

    @cached_property
    def vocab_size(self) -> int:
        return self._rust.get_vocab_size(with_added_tokens=True)

    @cached_property
    def max_token_id(self) -> int:
        return max(self._rust.get_vocab(with_added_tokens=True).values(), default=-1)

    @cached_property
    def longest_token(self) -> int:
        return max(map(len, self._rust.get_vocab(with_added_tokens=True)), default=1)

    @cached_property
    def all_special_ids(self) -> frozenset[int]:
        added = self._rust.get_added_tokens_decoder().items()
        return frozenset(token_id for token_id, token in added if token.special)

    @cached_property
    def added_tokens(self) -> dict[int, str]:
        return {token_id: token.content for token_id, token in self._rust.get_added_tokens_decoder().items()}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        self._clear_batch_settings()
        _check_text(text)
        return self._rust.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        self._clear_batch_settings()
        for text in texts:
            _check_text(text)
        encodings = self._rust.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def decode(
        self,
        token_ids: Sequence[int],
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> str:
        if spaces_between_special_tokens or skip_special_tokens or self.pieces is not None:
            return self._rust.decode(token_ids, skip_special_tokens=skip_special_tokens)
        return "".join(self._decode_runs(token_ids))

    def convert_ids_to_tokens(self, token_ids: Sequence[int]) -> list[str]:
        return [self._rust.id_to_token(token_id) or "" for token_id in token_ids]

    def _decode_runs(self, token_ids: Sequence[int]) -> list[str]:
        """Texts of the added tokens and of the runs between them, none padded with spaces."""
        texts: list[str] = []
        run: list[int] = []
        for token_id in token_ids:
            added = self.added_tokens.get(token_id)
            if added is None:
                run.append(token_id)
                continue
            texts += [self._rust.decode(run, skip_special_tokens=False), added]
            run = []
        return [*texts, self._rust.decode(run, skip_special_tokens=False)]

    def _clear_batch_settings(self) -> None:
        """Padding and truncation stick to the native tokenizer, which `hf` may share and a user may have called."""
        if self._rust.padding is not None:
            self._rust.no_padding()
        if self._rust.truncation is not None:
            self._rust.no_truncation()


class PythonTokenizer(Tokenizer):
    """A tokenizer that exists in Python only (`tokenizer_mode="slow"`, or a model's own code)."""

    is_fast = False

    def __init__(self, hf: Any) -> None:
        self._hf = hf
        self.bos_token_id = hf.bos_token_id
        self.eos_token_id = hf.eos_token_id
        self.extra_eos_token_ids = ()
        self.chat_template = getattr(hf, "chat_template", None)

    @cached_property
    def hf(self) -> Any:
        return self._hf

    @cached_property
    def pieces(self) -> TokenPieces | None:
        return None

    @cached_property
    def vocab_size(self) -> int:
        return len(self._hf)

    @cached_property
    def max_token_id(self) -> int:
        return max(self.vocab_size - 1, *(int(token_id) for token_id in self._hf.get_vocab().values()))

    @cached_property
    def longest_token(self) -> int:
        return max(map(len, self._hf.get_vocab()), default=1)

    @cached_property
    def all_special_ids(self) -> frozenset[int]:
        return frozenset(self._hf.all_special_ids)

    @cached_property
    def added_tokens(self) -> dict[int, str]:
        return {token_id: token for token, token_id in self._hf.get_added_vocab().items()}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        _check_text(text)
        return list(self._hf.encode(text, add_special_tokens=add_special_tokens))

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        return [self.encode(text, add_special_tokens) for text in texts]

    def decode(
        self,
        token_ids: Sequence[int],
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> str:
        return str(
            self._hf.decode(
                list(token_ids),
                skip_special_tokens=skip_special_tokens,
                spaces_between_special_tokens=spaces_between_special_tokens,
                clean_up_tokenization_spaces=False,
            )
        )

    def convert_ids_to_tokens(self, token_ids: Sequence[int]) -> list[str]:
        return [token or "" for token in self._hf.convert_ids_to_tokens(list(token_ids))]


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise ValidationError(f"expected a text to tokenize, got {type(text).__name__}", parameter="prompt")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValidationError("the text holds a lone surrogate, which no encoding has", parameter="prompt")
