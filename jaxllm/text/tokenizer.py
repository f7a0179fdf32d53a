"""Text to token ids and back: one interface over Hugging Face tokenizers and those built from GGUF files."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer as RustTokenizer

from jaxllm.errors import ModelNotFoundError, ValidationError
from jaxllm.text.gguf_metadata import read_gguf_metadata
from jaxllm.text.gguf_tokenizer import build_gguf_tokenizer
from jaxllm.text.gguf_vocabulary import GgufVocabulary, read_vocabulary
from jaxllm.text.token_pieces import TokenPieces, find_token_pieces

TOKENIZER_MODES = ("auto", "hf", "slow")
_NO_ADVICE = "TRANSFORMERS_NO_ADVISORY_WARNINGS"


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

    @property
    @abstractmethod
    def hf(self) -> Any:
        """The Hugging Face tokenizer, as users know it; for a GGUF file made when first asked for."""

    @property
    @abstractmethod
    def pieces(self) -> TokenPieces | None:
        """Bytes of single tokens, None where tokens can only be decoded together."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""

    @property
    @abstractmethod
    def max_token_id(self) -> int:
        """The largest id that a token has."""

    @property
    @abstractmethod
    def all_special_ids(self) -> frozenset[int]:
        """Ids that `skip_special_tokens` leaves out."""

    @property
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
        self._clear_batch_settings()

    @cached_property
    def hf(self) -> Any:
        return self._make_hf()

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
    pieces = None

    def __init__(self, hf: Any) -> None:
        self._hf = hf
        self.bos_token_id = _optional_id(hf.bos_token_id)
        self.eos_token_id = _optional_id(hf.eos_token_id)
        self.extra_eos_token_ids = ()
        self.chat_template = getattr(hf, "chat_template", None)

    @property
    def hf(self) -> Any:
        return self._hf

    @cached_property
    def vocab_size(self) -> int:
        return len(self._hf)

    @cached_property
    def max_token_id(self) -> int:
        return max(self.vocab_size - 1, *(int(token_id) for token_id in self._hf.get_vocab().values()))

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


def load_tokenizer(
    path: Path,
    *,
    kind: Literal["hf", "gguf"],
    trust_remote_code: bool = False,
    revision: str | None = None,
    tokenizer_mode: str = "auto",
) -> Tokenizer:
    """The tokenizer in a directory of Hugging Face layout, or in a GGUF file."""
    if tokenizer_mode not in TOKENIZER_MODES:
        raise ValidationError(
            f"tokenizer_mode must be one of {TOKENIZER_MODES}, got {tokenizer_mode!r}", parameter="tokenizer_mode"
        )
    if kind == "gguf":
        return _load_gguf(path)
    return _load_hf(path, trust_remote_code=trust_remote_code, revision=revision, is_slow=tokenizer_mode == "slow")


def _load_gguf(path: Path) -> Tokenizer:
    vocabulary = read_vocabulary(read_gguf_metadata(path), str(path))
    rust = build_gguf_tokenizer(vocabulary)
    return FastTokenizer(
        rust,
        make_hf=_GgufHfFactory(rust=rust, vocabulary=vocabulary),
        bos_token_id=vocabulary.bos_token_id,
        eos_token_id=vocabulary.eos_token_id,
        extra_eos_token_ids=vocabulary.extra_eos_token_ids,
        chat_template=vocabulary.chat_template,
    )


@dataclass(frozen=True, kw_only=True)
class _GgufHfFactory:
    """Wraps the native tokenizer for users, late: importing transformers takes longer than all the rest."""

    rust: RustTokenizer
    vocabulary: GgufVocabulary

    def __call__(self) -> Any:
        transformers = _import_transformers()
        vocabulary = self.vocabulary
        named = {
            "bos_token": vocabulary.bos_token_id,
            "eos_token": vocabulary.eos_token_id,
            "unk_token": vocabulary.unknown_token_id,
            "pad_token": vocabulary.padding_token_id,
        }
        tokens = {name: vocabulary.tokens[token_id] for name, token_id in named.items() if token_id is not None}
        hf = transformers.PreTrainedTokenizerFast(
            tokenizer_object=self.rust, clean_up_tokenization_spaces=False, **tokens
        )
        hf.chat_template = vocabulary.chat_template
        if vocabulary.context_length is not None:
            hf.model_max_length = vocabulary.context_length
        return hf


def _load_hf(path: Path, *, trust_remote_code: bool, revision: str | None, is_slow: bool) -> Tokenizer:
    transformers = _import_transformers()
    options: dict[str, Any] = {"use_fast": False} if is_slow else {}
    try:
        hf = transformers.AutoTokenizer.from_pretrained(
            str(path), trust_remote_code=trust_remote_code, revision=revision, **options
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelNotFoundError(
            f"no usable tokenizer in {path} ({error}); pass tokenizer= with another directory or id, or "
            "skip_tokenizer_init=True and token ids as prompts"
        ) from error
    if not hf.is_fast:
        return PythonTokenizer(hf)
    return FastTokenizer(
        hf.backend_tokenizer,
        make_hf=lambda: hf,
        bos_token_id=_optional_id(hf.bos_token_id),
        eos_token_id=_optional_id(hf.eos_token_id),
        chat_template=getattr(hf, "chat_template", None),
    )


def _import_transformers() -> Any:
    """transformers, without the line it prints when torch is missing: here it always is, and nothing needs it."""
    previous = os.environ.get(_NO_ADVICE)
    os.environ[_NO_ADVICE] = "1"
    try:
        import transformers
    finally:
        if previous is None:
            del os.environ[_NO_ADVICE]
        else:
            os.environ[_NO_ADVICE] = previous
    return transformers


def _optional_id(token_id: Any) -> int | None:
    return None if token_id is None else int(token_id)


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise ValidationError(f"expected a text to tokenize, got {type(text).__name__}", parameter="prompt")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValidationError("the text holds a lone surrogate, which no encoding has", parameter="prompt")
