from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxllm.runner.program_memory import MemoryRecord, ProgramMemory

MEMORY = ProgramMemory(temporaries=1000, outputs=20, code=3)


def test_two_steps_have_outputs_at_a_time() -> None:
    assert MEMORY.reserved == 1000 + 2 * 20 + 3


def test_reads_xla_and_leaves_out_donated_outputs() -> None:
    program = jax.jit(lambda cache, x: (cache.at[0].set(x), x * 2), donate_argnums=0)
    compiled = program.lower(jnp.zeros(100_000, jnp.float32), jnp.float32(1)).compile()
    memory = ProgramMemory.of(compiled)
    assert 4 <= memory.outputs < 100
    assert memory.temporaries < 1000


def test_record_is_read_under_its_key_only(tmp_path: Path) -> None:
    MemoryRecord(tmp_path, "key").write(MEMORY)
    assert MemoryRecord(tmp_path, "key").read() == MEMORY
    assert MemoryRecord(tmp_path, "other").read() is None


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"temporaries": 1}',
        '{"temporaries": -1, "outputs": 1, "code": 1}',
        '{"temporaries": "1", "outputs": 1, "code": 1}',
    ],
)
def test_damaged_record_is_measured_again(tmp_path: Path, content: str) -> None:
    MemoryRecord(tmp_path, "key").write(MEMORY)
    [file] = tmp_path.iterdir()
    file.write_text(content)
    assert MemoryRecord(tmp_path, "key").read() is None


def test_unwritable_directory_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    MemoryRecord(blocked, "key").write(MEMORY)
    assert "can't be kept for the next start" in caplog.text
