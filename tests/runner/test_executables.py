import hashlib
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxllm.runner.cache_files import write_whole
from jaxllm.runner.executables import ExecutableStore


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
    assert "is damaged or another's and will be compiled again" in caplog.text
    assert get(tmp_path).num_compiled == 0


def test_unwritable_directory_is_told_and_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    assert get(blocked).num_compiled == 1
    assert "can't be kept for the next start" in caplog.text


def test_an_entry_of_another_program_is_compiled_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    get(tmp_path, "other")
    [foreign] = tmp_path.iterdir()
    get(tmp_path)
    [own] = set(tmp_path.iterdir()) - {foreign}
    foreign.replace(own)
    assert get(tmp_path).num_compiled == 1
    assert "is damaged or another's and will be compiled again" in caplog.text


def test_an_entry_that_does_not_load_is_compiled_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    get(tmp_path)
    [file] = tmp_path.iterdir()
    made_for, body = file.read_bytes()[:32], pickle.dumps("from another version")
    file.write_bytes(made_for + hashlib.sha256(body).digest() + body)
    assert get(tmp_path).num_compiled == 1
    assert "can't be loaded" in caplog.text


def test_tells_what_compiling_took(tmp_path: Path) -> None:
    store = get(tmp_path)
    assert store.compile_times["double"].trace > 0
    assert store.compile_times["double"].compile > 0
    assert get(tmp_path).compile_times == {}


def test_a_crash_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(source: str, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "entry", b"content")
    assert list(tmp_path.iterdir()) == []
