"""The pre-tokenizers of byte-level BPE vocabularies in GGUF files, by the name in `tokenizer.ggml.pre`.

A pre-tokenizer cuts a text into pieces before merges are applied. It is written here as a sequence of patterns: each
cuts the pieces that the one before it left, and what lies between two matches is a piece as well. The patterns are the
models' own, as published in their `tokenizer.json`.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxllm.errors import UnsupportedModelError

DEFAULT_PRE_TOKENIZER = "default"
"""Used when a file names none, as old files do."""


@dataclass(frozen=True, kw_only=True)
class PreTokenizer:
    """How one family of byte-level BPE vocabularies cuts text, and what it assumes where the file is silent."""

    patterns: tuple[str, ...]
    """Regular expressions, applied one after the other."""
    ignore_merges: bool = False
    """A piece that is a token as a whole is taken as it is, whatever the merges say."""
    adds_bos: bool = False
    """Prompts start with BOS unless the file says otherwise."""


def find_pre_tokenizer(name: str) -> PreTokenizer:
    """The pre-tokenizer that a GGUF file calls `name`."""
    try:
        return _PRE_TOKENIZERS[name]
    except KeyError:
        raise UnsupportedModelError(
            f"the GGUF file's pre-tokenizer (tokenizer.ggml.pre) is {name!r}, which jaxllm doesn't know; "
            f"known are {', '.join(sorted(_PRE_TOKENIZERS))}. Pass tokenizer= with the model's Hugging Face tokenizer"
        ) from None


def _character_ranges(hexadecimal: str) -> str:
    """The inside of a character class from code points like "41-5A B5"."""
    return "".join("-".join(f"\\x{{{code_point}}}" for code_point in part.split("-")) for part in hexadecimal.split())


def _either(*patterns: str) -> str:
    return "|".join(patterns)


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTER_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SYMBOLS_WITH_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_LINE_ENDS_AND_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LOWER_ENDED_WORD = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_UPPER_STARTED_WORD = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = _either(_CONTRACTIONS, _LETTER_WORD, r"\p{N}{1,3}", _SYMBOLS, _LINE_ENDS_AND_SPACES)
_QWEN2 = _either(_CONTRACTIONS, _LETTER_WORD, r"\p{N}", _SYMBOLS, _LINE_ENDS_AND_SPACES)
_QWEN35 = _either(
    _CONTRACTIONS,
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
    r"\p{N}",
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    _LINE_ENDS_AND_SPACES,
)
_TEKKEN = _either(_LOWER_ENDED_WORD, _UPPER_STARTED_WORD, r"\p{N}", _SYMBOLS_WITH_SLASH, _LINE_ENDS_AND_SPACES)
_GPT4O = _either(
    f"{_LOWER_ENDED_WORD}{_CONTRACTIONS}?",
    f"{_UPPER_STARTED_WORD}{_CONTRACTIONS}?",
    r"\p{N}{1,3}",
    _SYMBOLS_WITH_SLASH,
    _LINE_ENDS_AND_SPACES,
)
_SEED_CODER = _either(_CONTRACTIONS, _LETTER_WORD, r"\p{N}", r" ?[^\s\p{L}\p{N}\r\n]+", _LINE_ENDS_AND_SPACES)
_BAILING = _either(r"'(?i:[sdmt]|ll|ve|re)", _LETTER_WORD, r"\p{N}", _SYMBOLS, r"\s*[\r\n]|\s+(?!\S)|\s+")
_BLOOM = r" ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{0964}\x{06D4}\x{060C})]+"
_THREE_DIGITS = "[0-9][0-9][0-9]"

_CJK_AND_HANGUL = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+"
_CJK_AND_KANA = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+"
_DEEPSEEK_LLM_LETTERS = _character_ranges(
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A "
    "38C 38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF "
    "1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D "
    "1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 "
    "1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F "
    "2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F "
    "A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 "
    "104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
_DEEPSEEK_LLM_PUNCTUATION = _character_ranges("21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002")
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_DEEPSEEK_LLM_LETTERS}]+",
    rf"\s?[{_DEEPSEEK_LLM_PUNCTUATION}]+",
    r"\s+$",
    _CJK_AND_HANGUL,
    r"\p{N}+",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_AND_HANGUL, r"\p{N}")
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    _CJK_AND_KANA,
    _either(
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+",
        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        r" ?[\p{P}\p{S}]+[\r\n]*",
        _LINE_ENDS_AND_SPACES,
    ),
)

_FAMILIES: dict[tuple[str, ...], PreTokenizer] = {
    (DEFAULT_PRE_TOKENIZER,): PreTokenizer(
        patterns=(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", _THREE_DIGITS),
    ),
    (
        *("gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "modern-bert", "mpt", "olmo", "jais", "trillion"),
        *("granite-docling", "exaone4", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de"),
        *("jina-v2-code", "roberta-bpe"),
    ): PreTokenizer(patterns=(_GPT2,)),
    ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"): PreTokenizer(
        patterns=(r"\p{N}", _GPT2)
    ),
    ("falcon",): PreTokenizer(patterns=(r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, _THREE_DIGITS)),
    (
        *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
        "jina-v5-nano",
    ): PreTokenizer(patterns=(_LLAMA3,), ignore_merges=True, adds_bos=True),
    ("glm4", "glm5"): PreTokenizer(patterns=(_LLAMA3,), ignore_merges=True),
    ("dbrx", "smaug-bpe", "chatglm-bpe"): PreTokenizer(patterns=(_LLAMA3,)),
    (
        *("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "stablelm2", "hunyuan", "solar-open", "megrez"),
        "grok-2",
    ): PreTokenizer(patterns=(_QWEN2,)),
    ("qwen35",): PreTokenizer(patterns=(_QWEN35,)),
    ("deepseek-llm",): PreTokenizer(patterns=_DEEPSEEK_LLM),
    ("deepseek-coder",): PreTokenizer(patterns=_DEEPSEEK_CODER),
    ("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"): PreTokenizer(patterns=_DEEPSEEK_V3),
    ("tekken",): PreTokenizer(patterns=(_TEKKEN,), ignore_merges=True, adds_bos=True),
    ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"): PreTokenizer(patterns=(_GPT4O,)),
    ("seed-coder",): PreTokenizer(patterns=(_SEED_CODER,)),
    ("bailingmoe", "bailingmoe2", "llada-moe"): PreTokenizer(patterns=(_BAILING,)),
    ("poro-chat", "bloom", "gpt3-finnish"): PreTokenizer(patterns=(_BLOOM,)),
    ("viking",): PreTokenizer(patterns=(_BLOOM, r"\p{N}")),
}

_PRE_TOKENIZERS = {name: pre_tokenizer for names, pre_tokenizer in _FAMILIES.items() for name in names}
