from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxllm.bench.served_vocabulary import ServedVocabulary
from jaxllm.errors import ValidationError


def write_config(folder: Path, **config: object) -> ServedVocabulary:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return ServedVocabulary(str(folder))


def test_size_is_read_from_the_configuration_alone() -> None:
    config = Path(__file__).resolve().parents[2] / "benchmarks" / "configs" / "llama-3.1-8b"
    vocabulary = ServedVocabulary(str(config))
    assert (vocabulary.size, vocabulary.is_loaded) == (128256, False)


def test_size_may_stand_in_the_text_part(tmp_path: Path) -> None:
    assert write_config(tmp_path, text_config={"vocab_size": 7}).size == 7


def test_configuration_without_a_size_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"^the configuration of .* has no vocab_size$"):
        _ = write_config(tmp_path).size


def test_unknown_model_asks_for_a_tokenizer() -> None:
    with pytest.raises(ValidationError, match=r"'/nowhere/m' can't be found: name it with --tokenizer\. "):
        _ = ServedVocabulary("/nowhere/m").size
