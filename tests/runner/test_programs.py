from __future__ import annotations

from typing import Any

import jax

from jaxllm.runner.programs import ProgramSet, RunnerConfig
from jaxllm.runner.sharding import make_mesh
from jaxllm.sampling_params import MAX_LOGIT_EDITS

VOCAB_SIZE = 100


def make_programs(max_num_seqs: int = 32, max_num_batched_tokens: int = 512) -> ProgramSet:
    config = RunnerConfig(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=64,
        page_size=16,
        num_pages=10,
        max_logprobs=5,
        logprobs_mode="raw_logprobs",
        dtype="float32",
        cache_dtype="float32",
    )
    nothing: Any = None
    return ProgramSet(
        config,
        graphdef=nothing,
        treedef=jax.tree.structure(()),
        weights=(),
        cache_shape=(10, 16, 2, 8),
        num_layers=3,
        hidden_size=24,
        vocab_size=VOCAB_SIZE,
        mesh=make_mesh("cpu", 1),
    )


def test_programs_that_run_any_step_come_first_and_then_the_smallest() -> None:
    programs = make_programs()
    assert programs.names[:2] == ["mixed_512x32", "decode_32x32"]
    assert programs.names[-5:] == ["decode_1x1", "mixed_64x32", "sample_1", "decode_8x8", "sample_8"]
    assert programs.needed == programs.names[:-5]
    assert programs.largest == ["mixed_512x32", "sample_32"]


def test_all_that_come_in_one_size_are_needed() -> None:
    names = make_programs().needed[2:]
    loads = {name for name in names if name.startswith("load_")}
    assert {name for name in names if name not in loads} == {
        "counts",
        "prompt_scores",
        "sample_32",
        "page_copies_8",
        "page_copies_32",
        "page_saves",
        "page_loads",
        "beams_8",
        "beams_32",
        "fetch_tokens",
        "fetch_top",
        "fetch_prompt",
    }
    assert len(loads) == 5 + 2 + 2  # steps, copies, beams


def test_one_bucket_of_a_kind_is_all_there_is() -> None:
    programs = make_programs(max_num_seqs=1, max_num_batched_tokens=64)
    assert programs.names == programs.needed
    assert programs.names[:2] == ["mixed_64x1", "decode_1x1"]


def test_state_has_the_shapes_of_cache_and_slots() -> None:
    programs = make_programs()
    state = programs.state
    assert [cache.keys.shape for cache in state.caches] == [(10, 16, 2, 8)] * 3
    assert state.last_tokens.shape == (33,)
    assert programs.sampled.counts.shape == (33, VOCAB_SIZE)
    assert state.logits.shape == (32, VOCAB_SIZE)
    assert (state.hidden.shape, state.targets.shape) == ((512, 24), (512,))
    assert (state.tokens.shape, programs.prompt.top.shape) == ((3, 32), (2, 512, 5))


def test_resident_bytes_are_those_of_slots_results_buffers_and_constraints() -> None:
    programs = make_programs()
    slots = 33 * 4 + 33 * VOCAB_SIZE * 2
    results = 32 * VOCAB_SIZE * 4 + sum((3 + 2 * 5) * rows * 4 for rows in (32, 512))
    left = 13 * 32 * 4 + 512 * (24 + 1) * 4
    buffers = 4 * sum(programs.buffer_sizes)
    constraints = sum(rows * (2 * 4 * MAX_LOGIT_EDITS + 4 * 4) for rows in (1, 8, 32))
    bitmasks = sum(rows * 4 * 4 for rows in (8, 32))
    assert programs.resident_bytes == slots + results + left + buffers + constraints + bitmasks
