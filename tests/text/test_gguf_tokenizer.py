from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.errors import CheckpointError
from jaxllm.text.gguf_pre_tokenizers import find_pre_tokenizer
from jaxllm.text.gguf_vocabulary import read_vocabulary
from jaxllm.text.load_tokenizer import load_tokenizer
from jaxllm.text.tokenizer import Tokenizer
from tests.text.helpers import (
    USER_DEFINED,
    ReferenceBpe,
    byte_level_values,
    load_byte_level,
    load_sentencepiece,
    reference_sentencepiece,
    sentencepiece_values,
    write_gguf,
)

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TEXTS = st.text(st.sampled_from("helo wrd!ab\n\t123½é我🦙's"), max_size=40)


@pytest.fixture(scope="module")
def smollm_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("vocabulary") / "smollm.gguf", byte_level_values(pre="smollm"))


@pytest.fixture(scope="module")
def smollm(smollm_path: Path) -> Tokenizer:
    return load_tokenizer(smollm_path, kind="gguf")


@pytest.fixture(scope="module")
def smollm_reference(smollm_path: Path) -> ReferenceBpe:
    return ReferenceBpe(smollm_path, [r"\p{N}", GPT2])


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_sentencepiece(tmp_path_factory.mktemp("vocabulary"))


@given(text=TEXTS)
def test_byte_level_agrees_with_the_reference(smollm: Tokenizer, smollm_reference: ReferenceBpe, text: str) -> None:
    assert smollm.encode(text) == smollm_reference.encode(text)


@given(text=st.text(max_size=30))
def test_byte_level_round_trips_any_text(smollm: Tokenizer, text: str) -> None:
    assert smollm.decode(smollm.encode(text), skip_special_tokens=False) == text


@given(text=TEXTS)
def test_sentencepiece_agrees_with_the_reference(sentencepiece: Tokenizer, text: str) -> None:
    expected = reference_sentencepiece(sentencepiece_values(), text)
    assert sentencepiece.encode(text, add_special_tokens=False) == expected


@given(text=st.text(max_size=30).filter(lambda text: "\N{LOWER ONE EIGHTH BLOCK}" not in text))
def test_sentencepiece_round_trips_any_text(sentencepiece: Tokenizer, text: str) -> None:
    assert sentencepiece.decode(sentencepiece.encode(text)) == text


def tokens_of(tokenizer: Tokenizer, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))


def test_smollm_splits_digits_off_and_joins_line_ends(smollm: Tokenizer) -> None:
    assert tokens_of(smollm, "\n\n1") == ["ĊĊ", "1"]
    assert tokens_of(smollm, "123") == ["1", "2", "3"]


def test_gpt2_keeps_digits_together(tmp_path: Path) -> None:
    tokenizer = load_byte_level(tmp_path, pre="gpt-2")
    assert tokens_of(tokenizer, "\n\n1") == ["Ċ", "Ċ", "1"]
    assert tokens_of(tokenizer, "123") == ["123"]


def test_special_tokens_in_a_text_are_recognised(smollm: Tokenizer) -> None:
    assert tokens_of(smollm, "hello<|im_end|> world[user]") == ["hello", "<|im_end|>", "Ġworld", "[user]"]


def test_control_tokens_are_special_and_user_defined_ones_not(smollm: Tokenizer) -> None:
    token_ids = smollm.encode("<|im_start|>[user]hello<|im_end|>")
    assert smollm.decode(token_ids) == "[user]hello"
    assert smollm.decode(token_ids, skip_special_tokens=False) == "<|im_start|>[user]hello<|im_end|>"


def test_ignoring_merges_takes_a_whole_piece_that_is_a_token(tmp_path: Path) -> None:
    values = byte_level_values(pre="llama-bpe", add_bos_token=False)
    values["tokenizer.ggml.tokens"] = [*values["tokenizer.ggml.tokens"], "xyz"]
    values["tokenizer.ggml.token_type"] = [*values["tokenizer.ggml.token_type"], 1]
    tokenizer = load_tokenizer(write_gguf(tmp_path / "llama.gguf", values), kind="gguf")
    assert tokens_of(tokenizer, "xyz") == ["xyz"]
    assert tokens_of(tokenizer, "xyza") == ["x", "y", "z", "a"]


def test_bos_and_eos_are_added_as_the_file_says(tmp_path: Path) -> None:
    tokenizer = load_byte_level(tmp_path, add_bos_token=True, add_eos_token=True)
    hello = tokenizer.encode("hello", add_special_tokens=False)
    assert tokenizer.encode("hello") == [tokenizer.bos_token_id, *hello, tokenizer.eos_token_id]
    assert tokenizer.encode("") == [tokenizer.bos_token_id, tokenizer.eos_token_id]


def test_sentencepiece_puts_a_space_first_unless_told_not_to(sentencepiece: Tokenizer, tmp_path: Path) -> None:
    assert tokens_of(sentencepiece, "hello") == ["▁hello"]
    without = load_sentencepiece(tmp_path, add_space_prefix=False)
    assert tokens_of(without, "hello") == ["h", "ello"]
    assert without.decode(without.encode(" hello")) == " hello"


def test_sentencepiece_spells_unknown_characters_in_bytes(sentencepiece: Tokenizer) -> None:
    assert tokens_of(sentencepiece, "我") == ["▁", "<0xE6>", "<0x88>", "<0x91>"]


def test_sentencepiece_joins_runs_of_spaces_from_the_left(sentencepiece: Tokenizer) -> None:
    assert tokens_of(sentencepiece, " " * 5) == ["▁" * 4, "▁" * 2]


def test_user_defined_spaces_are_taken_before_anything_else(tmp_path: Path) -> None:
    values = sentencepiece_values()
    values["tokenizer.ggml.tokens"] = [*values["tokenizer.ggml.tokens"], "     "]
    values["tokenizer.ggml.scores"] = [*values["tokenizer.ggml.scores"], -1000.0]
    values["tokenizer.ggml.token_type"] = [*values["tokenizer.ggml.token_type"], USER_DEFINED]
    tokenizer = load_tokenizer(write_gguf(tmp_path / "gemma.gguf", values), kind="gguf")
    assert tokens_of(tokenizer, "a     b") == ["▁", "a", "     ", "▁", "b"]
    assert tokenizer.pieces is not None
    assert tokenizer.pieces[tokenizer.max_token_id] == b"     "


def test_phi_3_control_tokens_swallow_white_space(tmp_path: Path) -> None:
    values = sentencepiece_values() | {"general.name": "Phi-3 mini"}
    tokenizer = load_tokenizer(write_gguf(tmp_path / "phi.gguf", values), kind="gguf")
    assert tokens_of(tokenizer, "<turn>\n hello") == ["<turn>", "▁hello"]
    assert tokens_of(tokenizer, "<s>  hello") == ["<s>", "▁▁", "▁hello"]


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", "it's 123  x\n\n y", ["it", "'s", " 123", " ", " x", "\n\n", " y"]),
        ("smollm", "it's 12  x", ["it", "'s", " ", "1", "2", " ", " x"]),
        ("llama-bpe", "It'S 12345\n\n  x", ["It", "'S", " ", "123", "45", "\n\n", " ", " x"]),
        ("qwen2", "a123 .\n b", ["a", "1", "2", "3", " .\n", " b"]),
        ("qwen35", "e\u0301a 12", ["e\u0301a", " ", "1", "2"]),
        ("deepseek-llm", "ab 12我 x!", ["ab", " ", "12", "我", " x", "!"]),
        ("deepseek-coder", "ab12我\r\n", ["ab", "1", "2", "我", "\r", "\n"]),
        ("deepseek-v3", "ab1234我です .x", ["ab", "123", "4", "我です", " .", "x"]),
        ("falcon", "a... 12345", ["a", "...", " ", "123", "45"]),
        ("default", "a+b 12345", ["a", "+", "b", " ", "123", "45"]),
        ("tekken", "HelloWorld's 12", ["Hello", "World", "'s", " ", "1", "2"]),
        ("gpt-4o", "HelloWorld's 1234", ["Hello", "World's", " ", "123", "4"]),
        ("seed-coder", "a1 .\n", ["a", "1", " .", "\n"]),
        ("bailingmoe", "it'S 12\n\n", ["it", "'S", " ", "1", "2", "\n\n"]),
        ("bloom", "a b.c", ["a", " b", ".", "c"]),
        ("viking", "a b12", ["a", " b", "1", "2"]),
    ],
)
def test_each_pre_tokenizer_cuts_as_its_models_do(tmp_path: Path, pre: str, text: str, pieces: list[str]) -> None:
    from tokenizers import Regex, pre_tokenizers

    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in find_pre_tokenizer(pre).patterns]
    assert [piece for piece, _ in pre_tokenizers.Sequence(splits).pre_tokenize_str(text)] == pieces


def test_every_pattern_compiles() -> None:
    from tokenizers import Regex

    from jaxllm.text.gguf_pre_tokenizers import _PRE_TOKENIZERS

    for pre_tokenizer in _PRE_TOKENIZERS.values():
        for pattern in pre_tokenizer.patterns:
            Regex(pattern)


def test_gemma4_joins_line_ends_only_with_line_ends(tmp_path: Path) -> None:
    values = sentencepiece_values(model="gemma4", merges=["h e", "a \n", "\n \n", "▁ ▁"])
    tokens = [*values["tokenizer.ggml.tokens"], "he", "a\n", "\n\n"]
    num_new = len(tokens) - len(values["tokenizer.ggml.tokens"])
    values["tokenizer.ggml.tokens"] = tokens
    values["tokenizer.ggml.scores"] = [*values["tokenizer.ggml.scores"], *[0.0] * num_new]
    values["tokenizer.ggml.token_type"] = [*values["tokenizer.ggml.token_type"], *[1] * num_new]
    tokenizer = load_tokenizer(write_gguf(tmp_path / "gemma4.gguf", values), kind="gguf")
    assert tokens_of(tokenizer, "he  a\n\n我") == ["he", "▁▁", "a", "\n\n", "<0xE6>", "<0x88>", "<0x91>"]
    assert tokenizer.encode("")[:1] == [1]


@pytest.mark.parametrize("merges", [["h q"], ["nospace"], ["h "]])
def test_a_merge_of_unknown_tokens_is_refused(tmp_path: Path, merges: list[str]) -> None:
    path = write_gguf(tmp_path / "broken.gguf", byte_level_values(merges=merges))
    with pytest.raises(CheckpointError, match=r"broken.gguf: the vocabulary contradicts itself"):
        load_tokenizer(path, kind="gguf")


def test_token_types_may_be_missing() -> None:
    values = sentencepiece_values()
    values.pop("tokenizer.ggml.token_type")
    vocabulary = read_vocabulary({**values, "tokenizer.ggml.scores": _Column(values["tokenizer.ggml.scores"])}, "x")
    assert set(vocabulary.token_types) == {1}


class _Column(list[float]):
    def tolist(self) -> list[float]:
        return list(self)
