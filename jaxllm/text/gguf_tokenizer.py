"""Builds a fast tokenizer from the vocabulary in a GGUF file."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import BPE

from jaxllm.text.gguf_vocabulary import GgufVocabulary, TokenType

_SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"
_ADDED_TYPES = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)


def build_gguf_tokenizer(vocabulary: GgufVocabulary) -> RustTokenizer:
    """The tokenizer that the model was trained with."""
    build = {"gpt2": _build_byte_level, "llama": _build_sentencepiece, "gemma4": _build_gemma4}[vocabulary.kind]
    tokenizer = build(vocabulary)
    tokenizer.add_tokens(_added_tokens(vocabulary))
    _set_post_processor(tokenizer, vocabulary)
    return tokenizer


def _build_byte_level(vocabulary: GgufVocabulary) -> RustTokenizer:
    pre_tokenizer = vocabulary.pre_tokenizer
    assert pre_tokenizer is not None, "a byte-level vocabulary has a pre-tokenizer"
    tokenizer = RustTokenizer(
        BPE(
            vocab=_ids_by_token(vocabulary),
            merges=_merges_as_written(vocabulary),
            ignore_merges=pre_tokenizer.ignore_merges,
        )
    )
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre_tokenizer.patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _build_sentencepiece(vocabulary: GgufVocabulary) -> RustTokenizer:
    tokenizer = _byte_fallback_tokenizer(vocabulary, _merges_from_scores(vocabulary))
    prefix = [normalizers.Prepend(_SPACE_MARK)] if vocabulary.adds_space_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", _SPACE_MARK)])
    tokenizer.decoder = _byte_fallback_decoder(strips_prefix=vocabulary.adds_space_prefix)
    return tokenizer


def _build_gemma4(vocabulary: GgufVocabulary) -> RustTokenizer:
    tokenizer = _byte_fallback_tokenizer(vocabulary, _merges_as_written(vocabulary))
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE_MARK)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\n]+|[\n]+"), "isolated")
    tokenizer.decoder = _byte_fallback_decoder(strips_prefix=False)
    return tokenizer


def _byte_fallback_tokenizer(vocabulary: GgufVocabulary, merges: list[tuple[str, str]]) -> RustTokenizer:
    unknown = vocabulary.unknown_token_id
    return RustTokenizer(
        BPE(
            vocab=_ids_by_token(vocabulary),
            merges=merges,
            byte_fallback=True,
            fuse_unk=True,
            unk_token=None if unknown is None else vocabulary.tokens[unknown],
        )
    )


def _ids_by_token(vocabulary: GgufVocabulary) -> dict[str, int]:
    return {token: token_id for token_id, token in enumerate(vocabulary.tokens)}


def _merges_as_written(vocabulary: GgufVocabulary) -> list[tuple[str, str]]:
    assert vocabulary.merges is not None, "a BPE vocabulary has merges"
    # The left token may itself be a space, hence the search from index 1.
    cuts = ((merge, merge.find(" ", 1)) for merge in vocabulary.merges)
    return [(merge[:cut], merge[cut + 1 :]) for merge, cut in cuts]


def _merges_from_scores(vocabulary: GgufVocabulary) -> list[tuple[str, str]]:
    """SentencePiece merges whichever neighbours make the best-scoring token, so every way to cut a token in two known
    tokens is a merge, ordered by the token's score."""
    tokens, types, scores = vocabulary.tokens, vocabulary.token_types, vocabulary.scores
    assert scores is not None, "a SentencePiece vocabulary has scores"
    mergeable = (TokenType.NORMAL, TokenType.UNUSED)
    known = {token for token, type_ in zip(tokens, types, strict=False) if type_ in mergeable}
    # Python's sort is stable: equal scores stay in the order of their ids. Where tokens of equal score overlap,
    # SentencePiece would take the leftmost instead; real vocabularies give equal scores to runs of spaces only, for
    # which both ways come out the same.
    best_first = sorted(range(len(tokens)), key=lambda token_id: -scores[token_id])
    merges: list[tuple[str, str]] = []
    for token_id in best_first:
        token = tokens[token_id]
        if token in known:
            merges += [
                (left, right)
                for cut in range(1, len(token))
                if (right := token[cut:]) in known and (left := token[:cut]) in known
            ]
    return merges


def _added_tokens(vocabulary: GgufVocabulary) -> list[AddedToken]:
    return [
        AddedToken(
            token,
            normalized=False,
            rstrip=token_id in vocabulary.strips_after_control,
            special=type_ != TokenType.USER_DEFINED,
        )
        for token_id, (token, type_) in enumerate(zip(vocabulary.tokens, vocabulary.token_types, strict=False))
        if type_ in _ADDED_TYPES
    ]


def _set_post_processor(tokenizer: RustTokenizer, vocabulary: GgufVocabulary) -> None:
    before = _token_if(vocabulary, vocabulary.bos_token_id, vocabulary.adds_bos)
    after = _token_if(vocabulary, vocabulary.eos_token_id, vocabulary.adds_eos)
    if not before and not after:
        return
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *before, "$B", *after],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in {*before, *after}],
    )


def _token_if(vocabulary: GgufVocabulary, token_id: int | None, is_added: bool) -> list[str]:
    return [vocabulary.tokens[token_id]] if is_added and token_id is not None else []


def _byte_fallback_decoder(*, strips_prefix: bool) -> decoders.Decoder:
    steps = [decoders.Replace(_SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strips_prefix else steps)
