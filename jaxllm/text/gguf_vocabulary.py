"""The vocabulary in a GGUF file's metadata, checked and with the defaults of its kind filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from jaxllm.errors import CheckpointError, UnsupportedModelError
from jaxllm.text.gguf_pre_tokenizers import DEFAULT_PRE_TOKENIZER, PreTokenizer, find_pre_tokenizer

_PREFIX = "tokenizer.ggml."
_SUPPORTED_KINDS = ("gpt2", "llama", "gemma4")

# Control tokens that end a generation whatever model they are in; files often name only one of them as EOS.
_END_OF_GENERATION = frozenset(
    (
        *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<turn|>"),
        *("<|endoftext|>", "<|end_of_text|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<end_of_utterance>"),
        "<\N{FULLWIDTH VERTICAL LINE}end\N{LOWER ONE EIGHTH BLOCK}of\N{LOWER ONE EIGHTH BLOCK}sentence"
        "\N{FULLWIDTH VERTICAL LINE}>",
    )
)


class TokenType(IntEnum):
    """What a token is for, as `tokenizer.ggml.token_type` says it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, kw_only=True)
class GgufVocabulary:
    """All that a GGUF file says about its tokens."""

    kind: str
    """"gpt2" (byte-level BPE), "llama" (SentencePiece BPE) or "gemma4" (BPE on characters with byte fallback)."""
    pre_tokenizer: PreTokenizer | None
    """Of the kind "gpt2" only."""
    tokens: list[str]
    """Text of each token, by id."""
    token_types: list[int]
    """`TokenType` of each token, by id."""
    scores: list[float] | None
    """Of the kind "llama": the token that scores highest is merged first."""
    merges: list[str] | None
    """Of the other kinds: "left right", first merge first."""
    adds_space_prefix: bool
    """A space is put before the text (kind "llama")."""
    bos_token_id: int | None
    """First token of a prompt."""
    eos_token_id: int | None
    """Ends a text."""
    unknown_token_id: int | None
    """Stands for what has no token."""
    padding_token_id: int | None
    """Fills up."""
    extra_eos_token_ids: tuple[int, ...]
    """More ids that end a generation, such as the end of a chat turn."""
    adds_bos: bool
    """Prompts start with BOS."""
    adds_eos: bool
    """Prompts end with EOS."""
    strips_after_control: frozenset[int]
    """Ids of control tokens that swallow the white space after them."""
    chat_template: str | dict[str, str] | None
    """One template, or several by name."""
    context_length: int | None
    """What the model was made for."""


def read_vocabulary(metadata: Mapping[str, Any], source: str) -> GgufVocabulary:
    """The vocabulary in `metadata`; `source` names the file in errors."""
    kind = _read_kind(metadata, source)
    pre_tokenizer = find_pre_tokenizer(_pre_tokenizer_name(metadata)) if kind == "gpt2" else None
    tokens = [token or f"[EMPTY_{index}]" for index, token in enumerate(metadata[_PREFIX + "tokens"])]
    types = _read_column(metadata, "token_type", len(tokens), source) or [int(TokenType.NORMAL)] * len(tokens)
    scores = _read_column(metadata, "scores", len(tokens), source)
    merges = metadata.get(_PREFIX + "merges")
    if kind == "llama" and scores is None:
        raise CheckpointError(f"{source}: the vocabulary has no scores (tokenizer.ggml.scores)")
    if kind != "llama" and merges is None:
        raise CheckpointError(f"{source}: the vocabulary has no merges (tokenizer.ggml.merges)")
    ids = _SpecialIds(metadata=metadata, num_tokens=len(tokens), source=source)
    is_sentencepiece = kind == "llama"
    bos = ids.find("bos_token_id", default=1 if is_sentencepiece else None)
    eos = ids.find("eos_token_id", default=2 if is_sentencepiece else None)
    adds_bos = is_sentencepiece or kind == "gemma4" or (pre_tokenizer is not None and pre_tokenizer.adds_bos)
    return GgufVocabulary(
        kind=kind,
        pre_tokenizer=pre_tokenizer,
        tokens=tokens,
        token_types=types,
        scores=scores,
        merges=merges,
        adds_space_prefix=is_sentencepiece and bool(metadata.get(_PREFIX + "add_space_prefix", True)),
        bos_token_id=bos,
        eos_token_id=eos,
        unknown_token_id=ids.find("unknown_token_id", default=0 if is_sentencepiece else None),
        padding_token_id=ids.find("padding_token_id"),
        extra_eos_token_ids=_find_extra_eos(tokens, types, ids, eos),
        adds_bos=bos is not None and bool(metadata.get(_PREFIX + "add_bos_token", adds_bos)),
        adds_eos=eos is not None and bool(metadata.get(_PREFIX + "add_eos_token", False)),
        strips_after_control=_find_stripping(metadata, tokens, types),
        chat_template=_read_chat_template(metadata),
        context_length=metadata.get(f"{metadata.get('general.architecture')}.context_length"),
    )


def _read_kind(metadata: Mapping[str, Any], source: str) -> str:
    kind = metadata.get(_PREFIX + "model")
    if kind is None or not isinstance(metadata.get(_PREFIX + "tokens"), list):
        raise CheckpointError(
            f"{source}: the GGUF file holds no vocabulary; pass tokenizer= with the model's Hugging Face tokenizer"
        )
    if kind not in _SUPPORTED_KINDS:
        raise UnsupportedModelError(
            f"{source}: the tokenizer kind (tokenizer.ggml.model) is {kind!r}, jaxllm supports {_SUPPORTED_KINDS}; "
            "pass tokenizer= with the model's Hugging Face tokenizer"
        )
    return str(kind)


def _pre_tokenizer_name(metadata: Mapping[str, Any]) -> str:
    return str(metadata.get(_PREFIX + "pre") or DEFAULT_PRE_TOKENIZER)


def _read_column(metadata: Mapping[str, Any], name: str, num_tokens: int, source: str) -> list[Any] | None:
    column = metadata.get(_PREFIX + name)
    if column is None:
        return None
    if len(column) < num_tokens:
        raise CheckpointError(f"{source}: {_PREFIX}{name} has {len(column)} entries for {num_tokens} tokens")
    values: list[Any] = column.tolist()
    return values


@dataclass(frozen=True, kw_only=True)
class _SpecialIds:
    metadata: Mapping[str, Any]
    num_tokens: int
    source: str

    def find(self, name: str, default: int | None = None) -> int | None:
        token_id = self.metadata.get(_PREFIX + name)
        if token_id is None:
            return default if default is not None and default < self.num_tokens else None
        if not 0 <= token_id < self.num_tokens:
            raise CheckpointError(
                f"{self.source}: {_PREFIX}{name} is {token_id}, but there are {self.num_tokens} tokens"
            )
        return int(token_id)


def _find_extra_eos(tokens: list[str], types: list[int], ids: _SpecialIds, eos: int | None) -> tuple[int, ...]:
    named = (ids.find("eot_token_id"), ids.find("eom_token_id"))
    found = {token_id for token_id in named if token_id is not None}
    control = {
        token: token_id
        for token_id, (token, type_) in enumerate(zip(tokens, types, strict=False))
        if type_ in (TokenType.CONTROL, TokenType.USER_DEFINED) and token in _END_OF_GENERATION
    }
    # In these chat formats <|end|> closes a message, and the answer goes on with the next one.
    if "<|return|>" in control and "<|call|>" in control:
        control.pop("<|end|>", None)
    found.update(control.values())
    return tuple(sorted(found - {eos}))


def _find_stripping(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> frozenset[int]:
    """Phi-3's control tokens swallow the white space that follows; GGUF has no field that says so, only the name."""
    name = str(metadata.get("general.name", "")).lower()
    if "phi-3" not in name and "phi3" not in name:
        return frozenset()
    special = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
    return frozenset(
        token_id
        for token_id, (token, type_) in enumerate(zip(tokens, types, strict=False))
        if type_ in special and token not in ("<unk>", "<s>", "<|endoftext|>")
    )


def _read_chat_template(metadata: Mapping[str, Any]) -> str | dict[str, str] | None:
    default = metadata.get("tokenizer.chat_template")
    start = "tokenizer.chat_template."
    named = {key.removeprefix(start): str(value) for key, value in metadata.items() if key.startswith(start)}
    if not named:
        return default
    return ({"default": default} if default is not None else {}) | named
