from pathlib import Path

import pytest

from jaxllm.errors import ValidationError
from jaxllm.text.bad_words import tokenize_bad_words
from jaxllm.text.tokenizer import Tokenizer
from tests.text.helpers import load_byte_level


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_byte_level(tmp_path_factory.mktemp("vocabulary"), add_bos_token=True)


def spelled(tokenizer: Tokenizer, bad_words: list[str]) -> list[list[str]]:
    return [tokenizer.convert_ids_to_tokens(token_ids) for token_ids in tokenize_bad_words(tokenizer, bad_words)]


def test_a_word_is_banned_with_and_without_a_space_before_it(tokenizer: Tokenizer) -> None:
    assert spelled(tokenizer, ["bad"]) == [["bad"], ["Ġbad"]]


def test_spaces_in_front_make_no_difference(tokenizer: Tokenizer) -> None:
    assert tokenize_bad_words(tokenizer, ["  bad"]) == tokenize_bad_words(tokenizer, ["bad"])


def test_a_word_of_several_tokens_is_a_sequence(tokenizer: Tokenizer) -> None:
    assert spelled(tokenizer, ["hello you"]) == [["hello", "Ġ", "y", "o", "u"], ["Ġ", "hello", "Ġ", "y", "o", "u"]]


def test_the_same_sequence_is_given_once(tokenizer: Tokenizer) -> None:
    assert spelled(tokenizer, ["bad", "bad"]) == [["bad"], ["Ġbad"]]


def test_no_bad_words_give_nothing(tokenizer: Tokenizer) -> None:
    assert tokenize_bad_words(tokenizer, []) == ()


def test_a_word_without_tokens_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValidationError, match="bad_words: '' has no tokens"):
        tokenize_bad_words(tokenizer, [""])


def test_too_many_words_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    words = [chr(ord("a") + first) + chr(ord("a") + second) for first in range(10) for second in range(10)]
    with pytest.raises(ValidationError, match=r"bad_words become \d+ token sequences, at most 128 are allowed"):
        tokenize_bad_words(tokenizer, words)
