"""A step writes the KV cache in place: a copy would cost more than all else."""

from __future__ import annotations

import re
from typing import Any

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
