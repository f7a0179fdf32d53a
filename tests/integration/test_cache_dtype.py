"""A cache of fewer bits than the activations: twice the tokens, near the same numbers, the same ones in every plan."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxllm.llm import JaxLLM
from tests.integration import helpers
from tests.integration.helpers import (
    GREEDY,
    drawn,
    fewest_pages,
    generate,
    greedy_outputs,
    needs_glassllm,
    replanned,
    start_glassllm,
    start_tiny,
)
from tests.references.reference import load_reference

NAME = "llama_gqa"
REFERENCE = load_reference(NAME)
CACHE_BYTES = 9 * (2 * 3 * 2 * 12 * 16 * 4)
"""Nine pages in float32: keys and values, layers, heads, head_dim, tokens of a page, bytes."""


@pytest.fixture(scope="module")
def small() -> Iterator[JaxLLM]:
    with start_tiny(NAME, kv_cache_dtype="fp8", kv_cache_memory_bytes=CACHE_BYTES) as llm:
        yield llm


@pytest.fixture(scope="module")
def expected(small: JaxLLM) -> list[list[int]]:
    return greedy_outputs(small, REFERENCE)


def test_pages_take_a_quarter_of_float32_s(small: JaxLLM) -> None:
    with start_tiny(NAME, kv_cache_memory_bytes=CACHE_BYTES) as whole:
        assert small._built.runner.num_pages == 4 * whole._built.runner.num_pages
        (keys, _), *_ = small._built.runner._state.caches
        assert keys.dtype == "float8_e4m3fn"


@needs_glassllm
def test_log_probabilities_stay_close() -> None:
    prompt = "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do"
    params = GREEDY.clone(max_tokens=1, prompt_logprobs=0)
    scores = []
    for dtype in ("auto", "fp8", "fp8_e5m2"):
        with start_glassllm(kv_cache_dtype=dtype) as llm:
            (output,) = llm.generate(prompt, params, use_tqdm=False)
            assert output.prompt_logprobs is not None
            scored = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
            scores.append(np.array([logprobs[token].logprob for token, logprobs in scored if logprobs]))
    exact, *rounded = scores
    assert all(0 < np.abs(some - exact).mean() < 0.1 for some in rounded)


def test_every_plan_draws_the_same(small: JaxLLM, expected: list[list[int]]) -> None:
    alone = replanned(small, enable_prefix_caching=False)
    params = GREEDY.clone(max_tokens=len(expected[0]))
    assert [drawn(generate(alone, [prompt], params))[0] for prompt in REFERENCE.prompts] == expected
    assert greedy_outputs(replanned(small, chunk_size=16), REFERENCE) == expected
    cached = replanned(small)
    assert greedy_outputs(cached, REFERENCE) == greedy_outputs(cached, REFERENCE) == expected


def test_preempted_requests_draw_the_same(small: JaxLLM, expected: list[list[int]]) -> None:
    tight = replanned(small, num_pages=fewest_pages(small))
    assert greedy_outputs(tight, REFERENCE) == expected
    assert tight.get_metrics().num_preemptions > 0


def test_a_cache_of_the_activations_own_type_changes_nothing() -> None:
    with start_tiny(NAME, kv_cache_dtype="float32") as llm:
        assert greedy_outputs(llm, REFERENCE) == REFERENCE.outputs


def test_two_devices_share_it(expected: list[list[int]]) -> None:
    with start_tiny(NAME, kv_cache_dtype="fp8_e4m3", tensor_parallel_size=2) as llm:
        assert greedy_outputs(llm, REFERENCE) == expected


def write_scaled(directory: Path, **config: Any) -> Path:
    """The reference model with keys and values too small for 8 bits, and the scales that say so."""
    tensors = load_file(REFERENCE.directory / "model.safetensors")
    for name in list(tensors):
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            tensors[name] = tensors[name] * np.float32(2**-20)
        elif name.endswith(("q_proj.weight", "o_proj.weight")):
            tensors[name] = tensors[name] * np.float32(2**20)
        if name.endswith("q_proj.weight"):
            attention = name.removesuffix(".q_proj.weight")
            tensors |= {f"{attention}.{kind}_scale": np.array(0.9 * 2**-20, np.float32) for kind in "kv"}
    shutil.copytree(REFERENCE.directory, directory)
    save_file(tensors, directory / "model.safetensors")
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return directory


@pytest.mark.parametrize("kv_cache_dtype", ["fp8", "auto"])
def test_scales_of_the_checkpoint_are_applied(
    kv_cache_dtype: str, expected: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As powers of two they make up for the small projections exactly."""
    wants_fp8 = {
        "quant_method": "compressed-tensors",
        "config_groups": {},
        "kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor"},
    }
    config = {"quantization_config": wants_fp8} if kv_cache_dtype == "auto" else {}
    directory = write_scaled(tmp_path / "model", **config)
    scaled_reference = dataclasses.replace(REFERENCE, directory=directory)
    monkeypatch.setattr(helpers, "load_reference", lambda name: scaled_reference)
    with start_tiny(NAME, kv_cache_dtype=kv_cache_dtype, kv_cache_memory_bytes=CACHE_BYTES) as llm:
        assert llm._built.runner._state.caches[0].keys.dtype == "float8_e4m3fn"
        assert greedy_outputs(llm, REFERENCE) == expected


def test_a_cache_of_full_width_needs_no_scales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaled_reference = dataclasses.replace(REFERENCE, directory=write_scaled(tmp_path / "model"))
    monkeypatch.setattr(helpers, "load_reference", lambda name: scaled_reference)
    with start_tiny(NAME) as llm:
        assert greedy_outputs(llm, REFERENCE) == REFERENCE.outputs
