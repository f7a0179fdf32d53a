"""A step writes the KV cache in place: a copy would cost more than all else."""

from __future__ import annotations

import re
from typing import Any

import jax
import pytest

from tests.integration.helpers import start_tiny


@pytest.mark.parametrize("name", ["gemma3_two_bases", "llama_gqa"])
def test_the_cache_is_not_copied(name):
    """With one key-value head, Gemma's, XLA used to choose another layout inside the program."""
    with start_tiny(name) as llm:
        runner = llm._built.runner
        pages, page_size, heads, head_dim = runner._state.caches[0].keys.shape
        programs: Any = [runner._programs[name] for name in (runner._buckets[0].name, "page_copies_8")]
        texts = [program.as_text() for program in programs]
    shape = f"{pages},{page_size},{heads},{head_dim}"
    rows = f"{pages},{page_size * heads * head_dim}"
    for text in texts:
        assert f"f32[{shape}]" in text
        assert re.findall(rf"= f32\[(?:{shape}|{rows})\]\S* (copy|transpose)\(", text) == []


def test_what_stays_on_the_device_stays_where_it_is():
    """Also what a step overwrites unread: a CUDA graph that finds an array elsewhere is recorded anew."""
    with start_tiny("llama_gqa") as llm:
        runner = llm._built.runner
        programs: Any = runner._programs
        steps = [programs[bucket.name].as_text() for bucket in runner._buckets]
        num_arrays = len(jax.tree.leaves(runner._state))
    for text in steps:
        (aliases,) = re.findall(r"input_output_alias=\{(.*)\}, entry_computation_layout", text)
        assert len(re.findall(r"\(\d+, \{\}, (?:may|must)-alias\)", aliases)) == num_arrays
