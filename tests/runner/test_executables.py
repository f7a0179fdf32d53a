from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxllm.runner.executables import ExecutableStore, program_key


def lower_double():
    return jax.jit(lambda x: x * 2).lower(jnp.zeros(3))


def get(directory: Path, key: str = "key") -> ExecutableStore:
    """Gets the program "double", checks that it works, and gives the store with its counter."""
    store = ExecutableStore(directory, key, jax.devices()[:1])
    done: list[str] = []
    programs = store.get_all({"double": lower_double}, done.append)
    assert programs["double"](jnp.ones(3)).tolist() == [2, 2, 2]
    assert done == ["double"]
    return store


def test_second_start_compiles_nothing(tmp_path: Path) -> None:
    assert get(tmp_path).num_compiled == 1
    assert get(tmp_path).num_compiled == 0


def test_another_key_is_another_program(tmp_path: Path) -> None:
    get(tmp_path)
    assert get(tmp_path, "other").num_compiled == 1


@pytest.mark.parametrize("damage", [lambda blob: blob[:100], lambda blob: b"", lambda blob: blob[:-1] + b"x"])
def test_damaged_entry_is_compiled_again(tmp_path: Path, damage, caplog: pytest.LogCaptureFixture) -> None:
    get(tmp_path)
    [file] = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert get(tmp_path).num_compiled == 1
    assert "is damaged and will be compiled again" in caplog.text
    assert get(tmp_path).num_compiled == 0


def test_unwritable_directory_is_told_and_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    assert get(blocked).num_compiled == 1
    assert "can't be kept for the next start" in caplog.text


def test_key_tells_configurations_apart() -> None:
    assert program_key("a", 1) == program_key("a", 1)
    assert program_key("a", 1) != program_key("a", 2)
