"""Loads a model's tokenizer, from a directory of Hugging Face layout or from a GGUF file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer as RustTokenizer

from jaxllm.errors import CheckpointError, ModelNotFoundError, ValidationError
from jaxllm.text.gguf_metadata import read_gguf_metadata
from jaxllm.text.gguf_tokenizer import build_gguf_tokenizer
from jaxllm.text.gguf_vocabulary import GgufVocabulary, read_vocabulary
from jaxllm.text.tokenizer import FastTokenizer, PythonTokenizer, Tokenizer

TOKENIZER_MODES = ("auto", "hf", "slow")
_NO_ADVICE = "TRANSFORMERS_NO_ADVISORY_WARNINGS"


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
    try:
        rust = build_gguf_tokenizer(vocabulary)
    except Exception as error:
        # The native library raises bare exceptions, for merges of unknown tokens for instance.
        raise CheckpointError(f"{path}: the vocabulary contradicts itself ({error})") from error
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
        bos_token_id=hf.bos_token_id,
        eos_token_id=hf.eos_token_id,
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
