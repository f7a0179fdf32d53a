import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from jaxllm.errors import ModelNotFoundError, ValidationError
from jaxllm.text.load_tokenizer import load_tokenizer
from jaxllm.text.tokenizer import FastTokenizer, PythonTokenizer, Tokenizer
from tests.text.helpers import load_byte_level, load_sentencepiece


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_byte_level(tmp_path_factory.mktemp("vocabulary"), add_bos_token=True)


@pytest.fixture(scope="module")
def directory(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tokenizer in Hugging Face layout."""
    path = tmp_path_factory.mktemp("hf")
    tokenizer.hf.save_pretrained(path)
    return path


def test_batches_give_what_single_texts_give(tokenizer: Tokenizer) -> None:
    texts = ["hello world", "", "123", "é🦙"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts, add_special_tokens=False) == [tokenizer.encode(t, False) for t in texts]


def test_loads_a_hugging_face_directory(tokenizer: Tokenizer, directory: Path) -> None:
    loaded = load_tokenizer(directory, kind="hf")
    assert loaded.is_fast
    for text in ("hello world", "\n\n12 é🦙", "<|im_start|>hello<|im_end|>"):
        assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.bos_token_id == tokenizer.bos_token_id
    assert loaded.eos_token_id == tokenizer.eos_token_id
    assert loaded.all_special_ids == tokenizer.all_special_ids
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.vocab_size == tokenizer.vocab_size
    assert loaded.max_token_id == tokenizer.max_token_id
    assert loaded.longest_token == tokenizer.longest_token >= len("<|im_start|>")


def test_hf_is_a_hugging_face_tokenizer_that_agrees(tokenizer: Tokenizer) -> None:
    text = "<|im_start|>hello  world[user] 12"
    assert tokenizer.hf(text)["input_ids"] == tokenizer.encode(text)
    assert tokenizer.hf(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text, False)
    assert tokenizer.hf.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.hf.bos_token_id == tokenizer.bos_token_id


def test_padding_by_a_user_does_not_reach_the_engine(directory: Path) -> None:
    loaded = load_tokenizer(directory, kind="hf")
    loaded.hf.pad_token = "<|endoftext|>"
    loaded.hf(["a", "hello world"], padding="max_length", max_length=20, truncation=True)
    assert [len(token_ids) for token_ids in loaded.encode_batch(["a", "hello"])] == [2, 2]
    loaded.hf(["a", "hello world"], padding="max_length", max_length=2, truncation=True)
    assert len(loaded.encode("hello world 12")) > 2


def test_special_tokens_are_left_out_or_kept(tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode("<|im_start|>hello<|im_end|>", add_special_tokens=False)
    assert tokenizer.decode(token_ids) == "hello"
    assert tokenizer.decode(token_ids, skip_special_tokens=False) == "<|im_start|>hello<|im_end|>"
    kept_together = tokenizer.decode(token_ids, skip_special_tokens=False, spaces_between_special_tokens=False)
    assert kept_together == "<|im_start|>hello<|im_end|>"


def test_an_id_without_token_gives_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([*tokenizer.encode("hello", False), 9999]) == "hello"
    assert tokenizer.convert_ids_to_tokens([9999]) == [""]
    assert tokenizer.token_text(9999) == ""


def test_token_text_keeps_the_leading_space(tmp_path: Path) -> None:
    sentencepiece = load_sentencepiece(tmp_path)
    (token_id,) = sentencepiece.encode("world", add_special_tokens=False)
    assert sentencepiece.token_text(token_id) == " world"


def test_spaces_of_a_joining_decoder_can_be_kept_from_special_tokens() -> None:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as RustTokenizer
    from tokenizers.models import WordLevel

    rust = RustTokenizer(WordLevel({"one": 0, "two": 1}, unk_token="one"))
    rust.add_tokens([AddedToken("<a>", special=True), AddedToken("<b>", special=True)])
    words = FastTokenizer(rust, make_hf=lambda: None, bos_token_id=None, eos_token_id=None, chat_template=None)
    assert words.pieces is None
    assert words.decode([2, 3, 0, 1], skip_special_tokens=False) == "<a> <b> one two"
    kept_together = words.decode([2, 3, 0, 1], skip_special_tokens=False, spaces_between_special_tokens=False)
    assert kept_together == "<a><b>one two"
    assert words.token_text(1) == "two"


def test_a_python_tokenizer_works_too() -> None:
    from transformers import ByT5Tokenizer

    slow = PythonTokenizer(ByT5Tokenizer())
    token_ids = slow.encode("é!", add_special_tokens=False)
    assert slow.decode(token_ids) == "é!"
    assert slow.encode_batch(["a", "b"], False) == [[100], [101]]
    assert slow.eos_token_id in slow.all_special_ids
    assert slow.max_token_id >= slow.vocab_size - 1
    assert slow.longest_token == len("<extra_id_124>")
    assert not slow.is_fast


def test_a_directory_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=f"no usable tokenizer in {tmp_path}"):
        load_tokenizer(tmp_path, kind="hf")


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"tokenizer_mode must be one of \('auto', 'hf', 'slow'\), got 'fast'"):
        load_tokenizer(tmp_path, kind="hf", tokenizer_mode="fast")


def test_a_prompt_that_is_no_text_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValidationError, match="expected a text to tokenize, got int"):
        tokenizer.encode(cast(str, 7))


def test_a_lone_surrogate_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValidationError, match="lone surrogate"):
        tokenizer.encode_batch(["fine", "\ud800"])


def test_a_gguf_tokenizer_loads_without_transformers_or_jax(tokenizer: Tokenizer, tmp_path: Path) -> None:
    load_byte_level(tmp_path)
    script = (
        "import sys; from pathlib import Path; from jaxllm.text.load_tokenizer import load_tokenizer; "
        f"load_tokenizer(Path({str(tmp_path / 'byte-level.gguf')!r}), kind='gguf').encode('hello'); "
        "print([name for name in ('transformers', 'jax', 'torch', 'huggingface_hub') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
