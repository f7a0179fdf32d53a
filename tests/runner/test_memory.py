import logging
from typing import Any

import pytest

from jaxllm.config import EngineConfig
from jaxllm.runner import memory
from jaxllm.runner.device_memory import DeviceMemory
from jaxllm.runner.memory import CacheSize, MemoryPlan, count_host_pages, size_cache


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


def test_preempted_requests_get_a_quarter_of_the_cache_in_the_hosts_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(swap_space: float | None = None, num_devices: int = 1) -> int:
        return count_host_pages(swap_space, num_devices=num_devices, num_pages=1001, page_bytes=1 << 20)

    monkeypatch.setattr(memory, "host_memory", lambda: 100 << 30)
    assert count() == 250
    monkeypatch.setattr(memory, "host_memory", lambda: 400 << 20)
    assert count() == 100
    assert count(0.0) == 0
    assert count(0.5) == 512
    assert count(4, num_devices=2) == 8192


GIB = 1 << 30


def device(limit: int = 76 * GIB, in_use: int = 0) -> DeviceMemory:
    return DeviceMemory(total=80 * GIB, limit=limit, in_use=in_use)


def plan(**changes: Any) -> MemoryPlan:
    values: dict[str, Any] = {
        "device": device(),
        "utilization": 0.75,
        "weights": 15 * GIB,
        "slots": GIB // 4,
        "programs": 3 * GIB // 4,
        "are_programs_measured": True,
        "most_cache": None,
    }
    return MemoryPlan(**values | changes)


def test_cache_gets_what_weights_and_programs_leave_of_the_usable_memory() -> None:
    assert plan().cache == 44 * GIB


def test_what_others_hold_is_not_the_caches() -> None:
    assert plan(device=device(in_use=2 * GIB)).cache == 42 * GIB


def test_no_more_is_usable_than_jax_gives_out() -> None:
    assert plan(utilization=1.0).usable == 76 * GIB
    assert plan(device=device(limit=40 * GIB)).cache == 24 * GIB


def test_cache_is_never_negative() -> None:
    assert plan(weights=90 * GIB).cache == 0


def test_a_cpu_keeps_the_rest_for_others() -> None:
    assert plan(most_cache=GIB).cache == GIB


def test_plan_is_a_table_that_adds_up() -> None:
    assert plan().lines(43 * GIB, "12 tokens") == [
        "  memory             80.00 GiB",
        "  usable, 75% of it  60.00 GiB",
        "  weights            15.00 GiB",
        "  slots              256.0 MiB",
        "  programs           768.0 MiB  measured",
        "  KV cache           43.00 GiB  12 tokens",
        "  left                1.00 GiB",
    ]


def test_table_says_what_is_an_estimate_and_what_others_hold() -> None:
    lines = plan(are_programs_measured=False, device=device(in_use=GIB)).lines(GIB, "")
    assert "  programs           768.0 MiB  estimated" in lines
    assert "  in use before       1.00 GiB" in lines
