import logging
from typing import Any

import pytest

from jaxllm.config import EngineConfig
from jaxllm.runner.memory import CacheSize, size_cache


def size(free: int = 10_000, **config: Any) -> CacheSize:
    engine_config = EngineConfig(model="m", page_size=16, **config)
    return size_cache(engine_config, model_len=128, page_bytes=100, max_num_seqs=4, free=free)


def test_pool_is_no_larger_than_all_sequences_need() -> None:
    assert size() == CacheSize(num_pages=4 * 8 + 1, max_model_len=128)


def test_bytes_that_the_user_gives_replace_free_memory() -> None:
    assert size(kv_cache_memory_bytes=1_200) == CacheSize(num_pages=12, max_model_len=128)


def test_model_length_shrinks_to_the_pool_with_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert size(free=500) == CacheSize(num_pages=5, max_model_len=64)
    assert "max_model_len shrinks from 128 to that" in caplog.text


def test_refuses_a_length_that_the_user_set_and_names_the_longest() -> None:
    with pytest.raises(ValueError, match=r"max_model_len=100 does not fit .* longest that fits is 64"):
        size(free=500, max_model_len=100)


def test_refuses_a_length_beyond_the_model() -> None:
    with pytest.raises(ValueError, match="max_model_len=129 is longer than the model's 128 positions"):
        size(max_model_len=129)


def test_refuses_when_not_one_page_fits() -> None:
    with pytest.raises(ValueError, match="no memory for the KV cache: 150 bytes are left"):
        size(free=150)


def test_auto_is_the_longest_that_fits() -> None:
    assert size(free=700, max_model_len="auto").max_model_len == 96
