"""Builds a fast tokenizer from the vocabulary in a GGUF file."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer as RustTokenizer

from jaxllm.text.gguf_vocabulary import GgufVocabulary, TokenType

_SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"
_ADDED_TYPES = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)


def build_gguf_tokenizer(vocabulary: GgufVocabulary) -> RustTokenizer:
    """The tokenizer that the model was trained with, byte for byte."""
    build = {"gpt2": _byte_level_parts, "llama": _sentencepiece_parts, "gemma4": _gemma4_parts}[vocabulary.kind]
    description = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(vocabulary),
        "post_processor": _post_processor(vocabulary),
        **build(vocabulary),
    }
    return RustTokenizer.from_str(json.dumps(description, ensure_ascii=False))


def _byte_level_parts(vocabulary: GgufVocabulary) -> dict[str, Any]:
    pre_tokenizer = vocabulary.pre_tokenizer
    assert pre_tokenizer is not None, "a byte-level vocabulary has a pre-tokenizer"
    steps = [_split(pattern) for pattern in pre_tokenizer.patterns]
    steps.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False})
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _bpe(vocabulary, merges=vocabulary.merges, ignore_merges=pre_tokenizer.ignore_merges),
    }


def _sentencepiece_parts(vocabulary: GgufVocabulary) -> dict[str, Any]:
    prefix = vocabulary.adds_space_prefix
    steps: list[dict[str, Any]] = [{"type": "Prepend", "prepend": _SPACE_MARK}] if prefix else []
    steps.append(_replace(" ", _SPACE_MARK))
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "decoder": _byte_fallback_decoder(strips_prefix=prefix),
        "model": _bpe(vocabulary, merges=_merges_from_scores(vocabulary), byte_fallback=True),
    }


def _gemma4_parts(vocabulary: GgufVocabulary) -> dict[str, Any]:
    return {
        "normalizer": _replace(" ", _SPACE_MARK),
        "pre_tokenizer": _split(r"[^\n]+|[\n]+"),
        "decoder": _byte_fallback_decoder(strips_prefix=False),
        "model": _bpe(vocabulary, merges=vocabulary.merges, byte_fallback=True),
    }


def _merges_from_scores(vocabulary: GgufVocabulary) -> list[tuple[str, str]]:
    """SentencePiece merges whichever neighbours make the best-scoring token, so every way to cut a token in two known
    tokens is a merge, ordered by the token's score."""
    tokens, types, scores = vocabulary.tokens, vocabulary.token_types, vocabulary.scores
    assert scores is not None, "a SentencePiece vocabulary has scores"
    known = {
        token for token, type_ in zip(tokens, types, strict=False) if type_ in (TokenType.NORMAL, TokenType.UNUSED)
    }
    # Python's sort is stable: equal scores stay in the order of their ids.
    best_first = sorted(range(len(tokens)), key=lambda token_id: -scores[token_id])
    merges: list[tuple[str, str]] = []
    for token in (tokens[token_id] for token_id in best_first):
        if token not in known:
            continue
        for cut in range(1, len(token)):
            left = token[:cut]
            if left in known and (right := token[cut:]) in known:
                merges.append((left, right))
    return merges


def _bpe(
    vocabulary: GgufVocabulary,
    *,
    merges: Any,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": vocabulary.unknown_token if byte_fallback else None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": byte_fallback,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": {token: token_id for token_id, token in enumerate(vocabulary.tokens)},
        "merges": merges,
    }


def _added_tokens(vocabulary: GgufVocabulary) -> list[dict[str, Any]]:
    return [
        {
            "id": token_id,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": token_id in vocabulary.strips_after_control,
            "normalized": False,
            "special": type_ != TokenType.USER_DEFINED,
        }
        for token_id, (token, type_) in enumerate(zip(vocabulary.tokens, vocabulary.token_types, strict=False))
        if type_ in _ADDED_TYPES
    ]


def _post_processor(vocabulary: GgufVocabulary) -> dict[str, Any] | None:
    bos = vocabulary.bos_token_id if vocabulary.adds_bos else None
    eos = vocabulary.eos_token_id if vocabulary.adds_eos else None
    if bos is None and eos is None:
        return None
    before = [] if bos is None else [_special_piece(vocabulary.tokens[bos])]
    after = [] if eos is None else [_special_piece(vocabulary.tokens[eos])]
    first = [*before, {"Sequence": {"id": "A", "type_id": 0}}, *after]
    second = [*before, {"Sequence": {"id": "B", "type_id": 0}}, *after]
    used = {token_id for token_id in (bos, eos) if token_id is not None}
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": [*first, *second],
        "special_tokens": {
            vocabulary.tokens[token_id]: {
                "id": vocabulary.tokens[token_id],
                "ids": [token_id],
                "tokens": [vocabulary.tokens[token_id]],
            }
            for token_id in used
        },
    }


def _special_piece(token: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": 0}}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def _byte_fallback_decoder(*, strips_prefix: bool) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [_replace(_SPACE_MARK, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    if strips_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}
