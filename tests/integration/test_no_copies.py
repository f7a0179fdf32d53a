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
        shape = ",".join(str(size) for size in runner._state.caches[0].keys.shape)
        compiled: Any = runner._programs[runner._buckets[0].name]
        program = compiled.as_text()
    assert f"f32[{shape}]" in program
    assert re.findall(rf"= f32\[{shape}\]\S* (copy|transpose)\(", program) == []
