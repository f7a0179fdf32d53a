"""SmolLM2's real tokenizer, from the GGUF file that a package embeds."""

import json
from pathlib import Path

import pytest

from jaxllm.text.chat_template import render_chat
from jaxllm.text.detokenizer import Detokenizer
from jaxllm.text.load_tokenizer import load_tokenizer
from jaxllm.text.tokenizer import Tokenizer
from tests.text.helpers import find_smollm2

EXPECTED: list[tuple[str, list[int]]] = json.loads(
    Path(__file__).with_name("smollm2_expected_ids.json").read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    return load_tokenizer(find_smollm2(), kind="gguf")


@pytest.mark.parametrize(("text", "token_ids"), EXPECTED)
def test_ids_are_right(smollm2: Tokenizer, text: str, token_ids: list[int]) -> None:
    assert smollm2.encode(text) == token_ids


@pytest.mark.parametrize("text", [text for text, _ in EXPECTED])
def test_text_comes_back_token_by_token(smollm2: Tokenizer, text: str) -> None:
    detokenizer = Detokenizer(smollm2, [])
    pieces = [detokenizer.append([token_id]) for token_id in smollm2.encode(text)]
    assert "".join(pieces) + detokenizer.flush() == text
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)


def test_known_prompt_ids(smollm2: Tokenizer) -> None:
    assert smollm2.encode("The capital of France is") == [504, 3575, 282, 4649, 314]
    assert smollm2.encode("\n\n1")[0] == 1116


def test_special_ids(smollm2: Tokenizer) -> None:
    assert smollm2.vocab_size == 49152
    assert smollm2.max_token_id == 49151
    assert smollm2.bos_token_id == 1
    assert smollm2.eos_token_id == 2
    assert smollm2.extra_eos_token_ids == (0,)


def test_chat_prompt_ids(smollm2: Tokenizer) -> None:
    prompt = render_chat(smollm2, [{"role": "user", "content": "Who won the world series in 2020?"}])
    assert smollm2.encode(prompt, add_special_tokens=False) == [
        *(1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2),
        *(198, 1, 4093, 198, 10576, 3763, 260, 905, 3086, 281, 216, 34, 32, 34, 32, 47, 2, 198, 1, 520, 9531, 198),
    ]


def test_the_hugging_face_tokenizer_agrees(smollm2: Tokenizer) -> None:
    for text, token_ids in EXPECTED:
        assert smollm2.hf(text)["input_ids"] == token_ids
