"""llama.cpp's own vocabulary cases: files `ggml-vocab-X.gguf` with texts in `.inp` and the right ids in `.out`.

They come in the source archive of llama-cpp-python, folder vendor/llama.cpp/models; name the folder in
JAXLLM_TEST_VOCABULARIES.
"""

import os
from pathlib import Path

import pytest

from jaxllm.errors import UnsupportedModelError
from jaxllm.text.load_tokenizer import load_tokenizer

SEPARATOR = "\n__ggml_vocab_test__\n"
# WordPiece, of an encoder model.
UNSUPPORTED = {"ggml-vocab-bert-bge.gguf"}

FOLDER = os.environ.get("JAXLLM_TEST_VOCABULARIES")
CASES = sorted(Path(FOLDER).glob("*.gguf.inp")) if FOLDER else []


def test_the_cases_are_there() -> None:
    if FOLDER is None:
        pytest.skip("JAXLLM_TEST_VOCABULARIES names no folder with llama.cpp's vocabularies")
    assert len(CASES) >= 15, f"expected llama.cpp's vocabularies in {FOLDER}, found {CASES}"


@pytest.mark.parametrize("inputs", CASES, ids=lambda path: path.name.removesuffix(".gguf.inp"))
def test_every_case_has_the_right_ids(inputs: Path) -> None:
    vocabulary = inputs.with_suffix("")
    if vocabulary.name in UNSUPPORTED:
        with pytest.raises(UnsupportedModelError):
            load_tokenizer(vocabulary, kind="gguf")
        return
    # Some of the files end with a separator, some don't.
    texts = inputs.read_text(encoding="utf-8").removesuffix(SEPARATOR).split(SEPARATOR)
    lines = inputs.with_suffix(".out").read_text(encoding="utf-8").splitlines()
    expected = [[int(token_id) for token_id in line.split()] for line in lines]
    tokenizer = load_tokenizer(vocabulary, kind="gguf")
    assert tokenizer.encode_batch(texts, add_special_tokens=False) == expected
