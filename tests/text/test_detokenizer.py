from functools import cached_property
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxllm.text.detokenizer import Detokenizer
from jaxllm.text.token_pieces import TokenPieces
from jaxllm.text.tokenizer import FastTokenizer, PythonTokenizer, Tokenizer
from tests.text.helpers import load_byte_level, load_sentencepiece

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
TEXTS = st.text(st.sampled_from("helo wrd!ab\n12é我🦙"), max_size=30)


class WithoutPieces(FastTokenizer):
    """Forces the window decoder on a tokenizer that has pieces."""

    @cached_property
    def pieces(self) -> TokenPieces | None:
        return None


def without_pieces(tokenizer: Tokenizer) -> Tokenizer:
    return WithoutPieces(
        tokenizer._rust,  # type: ignore[attr-defined]
        make_hf=lambda: None,
        bos_token_id=None,
        eos_token_id=None,
        chat_template=None,
    )


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_byte_level(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_sentencepiece(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece", "byte-level window", "sentencepiece window"])
def tokenizer(request: pytest.FixtureRequest, byte_level: Tokenizer, sentencepiece: Tokenizer) -> Tokenizer:
    chosen = byte_level if request.param.startswith("byte-level") else sentencepiece
    return without_pieces(chosen) if request.param.endswith("window") else chosen


def stream(detokenizer: Detokenizer, token_ids: list[int]) -> list[str]:
    return [detokenizer.append([token_id]) for token_id in token_ids]


@given(text=TEXTS)
def test_streamed_text_is_the_decoded_text(tokenizer: Tokenizer, text: str) -> None:
    token_ids = tokenizer.encode(text)
    detokenizer = Detokenizer(tokenizer, [])
    pieces = stream(detokenizer, token_ids)
    assert detokenizer.text == "".join(pieces)
    assert detokenizer.text + detokenizer.flush() == tokenizer.decode(token_ids) == text
    assert REPLACEMENT not in "".join(pieces)


@given(prompt=TEXTS, output=TEXTS)
@example(prompt="我我我", output="")  # more bytes than the first context holds
@example(prompt="我我我", output="我b")
def test_text_after_a_prompt_is_what_decoding_both_adds(tokenizer: Tokenizer, prompt: str, output: str) -> None:
    prompt_ids = tokenizer.encode(prompt)
    output_ids = tokenizer.encode(output, add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer, prompt_ids)
    stream(detokenizer, output_ids)
    detokenizer.flush()
    assert prompt + detokenizer.text == tokenizer.decode(prompt_ids + output_ids)


@given(text=TEXTS, cut=st.integers(0, 20))
def test_pieces_may_come_several_at_once(tokenizer: Tokenizer, text: str, cut: int) -> None:
    token_ids = tokenizer.encode(text)
    detokenizer = Detokenizer(tokenizer, [])
    detokenizer.append(token_ids[:cut])
    detokenizer.append(token_ids[cut:])
    detokenizer.flush()
    assert detokenizer.text == text


def test_a_character_appears_with_its_last_token(tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode("b🦙b", add_special_tokens=False)
    pieces = stream(Detokenizer(tokenizer, []), token_ids)
    assert "".join(pieces) == "b🦙b"
    assert [piece for piece in pieces if piece] in (["b", "🦙", "b"], ["b", "🦙b"])


@pytest.mark.parametrize("text", ["b我", "我我", "我我我我"])
def test_a_character_begun_in_the_prompt_is_completed(tokenizer: Tokenizer, text: str) -> None:
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer, token_ids[:-1])
    assert detokenizer.append(token_ids[-1:]) == "我"


def test_flush_shows_what_stayed_unfinished(byte_level: Tokenizer) -> None:
    for tokenizer in (byte_level, without_pieces(byte_level)):
        token_ids = tokenizer.encode("h我")
        detokenizer = Detokenizer(tokenizer, [])
        assert stream(detokenizer, token_ids[:-1]) == ["h", "", ""]
        assert detokenizer.text == "h"
        assert detokenizer.flush() == REPLACEMENT
        assert detokenizer.text == tokenizer.decode(token_ids[:-1]) == f"h{REPLACEMENT}"
        assert detokenizer.flush() == ""


def test_many_tokens_without_text_change_nothing(tokenizer: Tokenizer) -> None:
    special = max(tokenizer.all_special_ids)
    hello = tokenizer.encode("hello", add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer, hello)
    assert "".join(stream(detokenizer, [special] * 30)) == ""
    stream(detokenizer, hello)
    assert detokenizer.text.strip() == "hello"


def test_bytes_that_never_make_a_character_do_not_stall_the_stream(tokenizer: Tokenizer) -> None:
    broken = tokenizer.encode("我", add_special_tokens=False)[-1]
    hello = tokenizer.encode("hello", add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer, hello)
    pieces = stream(detokenizer, [broken] * 40 + hello)
    assert "".join(pieces[:40]).count(REPLACEMENT) > 20
    assert detokenizer.text.endswith("hello")


def test_a_replacement_character_in_the_text_is_text(byte_level: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level, [])
    assert "".join(stream(detokenizer, byte_level.encode(f"a{REPLACEMENT}b"))) == f"a{REPLACEMENT}b"


def test_special_tokens_are_left_out_or_kept(tokenizer: Tokenizer) -> None:
    eos = max(tokenizer.all_special_ids)
    hello = tokenizer.encode("hello", add_special_tokens=False)
    skipping = Detokenizer(tokenizer, hello)
    stream(skipping, [eos, *hello])
    keeping = Detokenizer(tokenizer, hello, skip_special_tokens=False)
    stream(keeping, [eos, *hello])
    (name,) = tokenizer.convert_ids_to_tokens([eos])
    assert skipping.text.strip() == "hello"
    assert keeping.text.replace(" ", "") == f"{name}hello"


def test_a_prompt_of_special_tokens_alone_does_not_keep_the_first_space(sentencepiece: Tokenizer) -> None:
    for tokenizer in (sentencepiece, without_pieces(sentencepiece)):
        hello = tokenizer.encode("hello", add_special_tokens=False)
        assert Detokenizer(tokenizer, [1]).append(hello) == "hello"
        assert Detokenizer(tokenizer, [*hello, *[1] * 20]).append(hello) == " hello"


def test_a_python_tokenizer_streams_too() -> None:
    from transformers import ByT5Tokenizer

    tokenizer = PythonTokenizer(ByT5Tokenizer())
    token_ids = tokenizer.encode("h我!", add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer, [])
    assert stream(detokenizer, token_ids) == ["h", "", "", "我", "!"]


def test_an_id_beyond_the_vocabulary_adds_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert Detokenizer(tokenizer, []).append([tokenizer.max_token_id + 100]) == ""
