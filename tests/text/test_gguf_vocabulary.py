from typing import Any

import numpy as np
import pytest

from jaxllm.errors import CheckpointError, UnsupportedModelError
from jaxllm.text.gguf_vocabulary import GgufVocabulary, read_vocabulary
from tests.text.helpers import CONTROL, USER_DEFINED, byte_level_values, sentencepiece_values

COLUMNS = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type")


def read(values: dict[str, Any]) -> GgufVocabulary:
    arrays = {key: np.asarray(value) for key, value in values.items() if key in COLUMNS}
    return read_vocabulary({**values, **arrays}, "model.gguf")


def with_control_tokens(*tokens: str, type_: int = CONTROL) -> dict[str, Any]:
    values = byte_level_values()
    values["tokenizer.ggml.tokens"] = values["tokenizer.ggml.tokens"] + list(tokens)
    values["tokenizer.ggml.token_type"] = values["tokenizer.ggml.token_type"] + [type_] * len(tokens)
    return values


def test_an_unknown_pre_tokenizer_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"tokenizer.ggml.pre\) is 'martian', which jaxllm doesn't know"):
        read(byte_level_values(pre="martian"))


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"model.gguf: the tokenizer kind .* is 'bert'"):
        read(byte_level_values(model="bert"))


def test_a_file_without_vocabulary_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"model.gguf: the GGUF file holds no vocabulary"):
        read({"general.architecture": "llama"})


def test_missing_merges_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"has no merges"):
        read(byte_level_values(merges=None))


def test_missing_scores_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"has no scores"):
        read(sentencepiece_values(scores=None))


def test_a_short_column_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"token_type has 2 entries for \d+ tokens"):
        read(byte_level_values(token_type=[1, 1]))


def test_a_special_id_out_of_range_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer.ggml.eos_token_id is 9999, but there are \d+ tokens"):
        read(byte_level_values(eos_token_id=9999))


def test_a_file_without_pre_tokenizer_gets_the_default_one() -> None:
    assert read(byte_level_values(pre=None)).pre_tokenizer == read(byte_level_values(pre="default")).pre_tokenizer


def test_sentencepiece_defaults() -> None:
    vocabulary = read(sentencepiece_values(bos_token_id=None, eos_token_id=None, unknown_token_id=None))
    assert (vocabulary.bos_token_id, vocabulary.eos_token_id, vocabulary.unknown_token_id) == (1, 2, 0)
    assert vocabulary.adds_bos
    assert not vocabulary.adds_eos
    assert vocabulary.adds_space_prefix


def test_only_the_llama_3_family_adds_bos_unasked() -> None:
    assert read(byte_level_values(pre="llama-bpe")).adds_bos
    assert not read(byte_level_values(pre="smollm")).adds_bos
    assert not read(byte_level_values(pre="llama-bpe", add_bos_token=False)).adds_bos


def test_end_of_turn_tokens_end_a_generation_too() -> None:
    vocabulary = read(with_control_tokens("<|eot_id|>", "<|other|>"))
    assert [vocabulary.tokens[token_id] for token_id in vocabulary.extra_eos_token_ids] == [
        "<|endoftext|>",
        "<|eot_id|>",
    ]


def test_a_normal_token_of_that_name_ends_nothing() -> None:
    vocabulary = read(with_control_tokens("<|eot_id|>", type_=1))
    assert [vocabulary.tokens[token_id] for token_id in vocabulary.extra_eos_token_ids] == ["<|endoftext|>"]


def test_named_end_of_turn_ids_are_read() -> None:
    vocabulary = read(byte_level_values(eot_token_id=5, eom_token_id=6))
    assert vocabulary.extra_eos_token_ids[:2] == (5, 6)


def test_end_of_message_goes_on_where_the_format_has_calls_and_returns() -> None:
    vocabulary = read(with_control_tokens("<|return|>", "<|call|>", "<|end|>", type_=USER_DEFINED))
    names = [vocabulary.tokens[token_id] for token_id in vocabulary.extra_eos_token_ids]
    assert names == ["<|endoftext|>", "<|return|>", "<|call|>"]


def test_named_chat_templates_are_kept_by_name() -> None:
    values = byte_level_values() | {"tokenizer.chat_template": "A", "tokenizer.chat_template.tool_use": "B"}
    assert read(values).chat_template == {"default": "A", "tool_use": "B"}
    assert read(byte_level_values() | {"tokenizer.chat_template": "A"}).chat_template == "A"
    assert read(byte_level_values()).chat_template is None


def test_an_empty_token_gets_a_name() -> None:
    values = byte_level_values()
    values["tokenizer.ggml.tokens"] = ["", *values["tokenizer.ggml.tokens"][1:]]
    assert read(values).tokens[0] == "[EMPTY_0]"
