"""Engines that serve on few programs while the others compile: same tokens, no waiting, and a clean end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxllm.errors import EngineDeadError
from jaxllm.llm import JaxLLM
from jaxllm.runner.compile_counter import num_compiles
from jaxllm.runner.executables import ExecutableStore
from tests.integration.helpers import GREEDY, drawn, generate, greedy_outputs, start_tiny
from tests.references.reference import load_reference

NAME = "llama_gqa"
LATER = "decode_1x1"
"""With eight rows and 64 tokens, the first of two programs that a tiny engine can do without."""


class Held:
    """Keeps a program from being compiled until the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.leave = threading.Event()
        compile_now = ExecutableStore.compile

        def compile_later(store: ExecutableStore, name: str, lowered: Any) -> Any:
            if name == LATER:
                self.begun.set()
                assert self.leave.wait(300), "nobody let the program compile"
                self.fail()
            return compile_now(store, name, lowered)

        monkeypatch.setattr(ExecutableStore, "compile", compile_later)

    def fail(self) -> None:
        """Overwritten by tests of failures."""


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of this module's engines, but never the held one."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture
def start(cache: Path) -> Callable[[], JaxLLM]:
    for entry in cache.glob(f"{LATER}-*"):
        entry.unlink()
    return lambda: start_tiny(NAME, background_compile=True, compilation_cache_dir=str(cache))


def bucket_names(llm: JaxLLM) -> list[str]:
    return [bucket.name for bucket in llm._built.runner._buckets]


def test_serves_while_a_program_compiles_and_takes_it_when_ready(held, start):
    reference = load_reference(NAME)
    with start() as llm:
        assert held.begun.wait(60)
        assert llm.num_programs_to_compile >= 1
        assert LATER not in bucket_names(llm)
        before = num_compiles()
        assert greedy_outputs(llm, reference) == reference.outputs
        assert not llm.wait_until_compiled(timeout=0)
        held.leave.set()
        assert llm.wait_until_compiled(timeout=300)
        assert llm.num_programs_to_compile == 0
        assert bucket_names(llm)[0] == LATER
        alone = drawn(generate(llm, reference.prompts[:1], GREEDY.clone(max_tokens=len(reference.outputs[0]))))
        assert alone == reference.outputs[:1]
        assert num_compiles() == before, "a step waited for a compiler"


def test_shutdown_in_the_middle_returns_while_the_compiler_runs_on(held, start):
    llm = start()
    assert held.begun.wait(60)
    llm.shutdown()
    with pytest.raises(EngineDeadError):
        llm.generate({"prompt_token_ids": [5]}, use_tqdm=False)
    threads = llm._built.runner._background._compilers
    assert any(thread.is_alive() for thread in threads)
    held.leave.set()
    for thread in threads:
        thread.join(300)
    assert not llm._built.runner._programs


def test_a_program_that_fails_is_told_and_serving_goes_on(held, start, caplog):
    def fail() -> None:
        raise RuntimeError("ptxas is missing")

    held.fail = fail
    reference = load_reference(NAME)
    with start() as llm:
        held.leave.set()
        assert llm.wait_until_compiled(timeout=300)
        assert LATER not in bucket_names(llm)
        assert greedy_outputs(llm, reference) == reference.outputs
    assert f"Program {LATER} can't be compiled; larger ones run in its place." in caplog.text
    assert "ptxas is missing" in caplog.text
