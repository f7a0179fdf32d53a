"""Programs that compile while others serve, with stores and programs that only pretend."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxllm.runner.background_compile import BackgroundCompile

USUAL_TURN = sys.getswitchinterval()


class Receiver:
    def __init__(self) -> None:
        self.ready: dict[str, Any] = {}

    def take(self, name: str, compiled: Any) -> None:
        self.ready[name] = compiled


class FakeStore:
    """Compiles a program by calling what tracing gave; "untraceable" and "uncompilable" fail."""

    def __init__(self) -> None:
        self.compiled: list[str] = []

    def trace(self, name: str, lower: Callable[[], Any]) -> Any:
        if name == "untraceable":
            raise RuntimeError("no such shape")
        return lower()

    def compile(self, name: str, lowered: Callable[[], Any]) -> Any:
        self.compiled.append(name)
        if name == "uncompilable":
            raise RuntimeError("no such instruction")
        return lowered()


def start(receiver: Receiver, **programs: Callable[[], Any]) -> tuple[BackgroundCompile, FakeStore]:
    store = FakeStore()
    background = BackgroundCompile(
        store, {name: as_lower(program) for name, program in programs.items()}, receiver.take
    )
    background.start_tracing()
    background.start_compiling()
    return background, store


def as_lower(program: Callable[[], Any]) -> Callable[[], Callable[[], Any]]:
    return lambda: program


def join(background: BackgroundCompile) -> None:
    for thread in (background._tracer, *background._compilers):
        thread.join(60)
        assert not thread.is_alive()


def test_hands_out_each_program() -> None:
    receiver = Receiver()
    background, _ = start(receiver, one=lambda: 1, two=lambda: 2)
    assert background.wait(60)
    assert receiver.ready == {"one": 1, "two": 2}
    assert background.num_left == 0


def test_nothing_to_compile_is_done_at_once() -> None:
    background, _ = start(Receiver())
    assert background.wait(0)


def test_failures_are_told_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver()
    background, _ = start(receiver, untraceable=lambda: 0, uncompilable=lambda: 0, one=lambda: 1)
    assert background.wait(60)
    join(background)
    assert receiver.ready == {"one": 1}
    assert background.num_left == 0
    for name, error in (("untraceable", "no such shape"), ("uncompilable", "no such instruction")):
        assert f"Program {name} can't be compiled; larger ones run in its place." in caplog.text
        assert error in caplog.text


def test_traces_before_it_may_compile() -> None:
    traced = threading.Event()

    def lower() -> Callable[[], int]:
        traced.set()
        return lambda: 1

    receiver, store = Receiver(), FakeStore()
    background = BackgroundCompile(store, {"one": lower}, receiver.take)
    background.start_tracing()
    assert traced.wait(60)
    assert not background.wait(0)
    assert (store.compiled, background.num_left) == ([], 1)
    background.start_compiling()
    assert background.wait(60)
    assert receiver.ready == {"one": 1}


class Gate:
    """A program that takes as long as the test wants."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.leave = threading.Event()

    def __call__(self) -> int:
        self.begun.set()
        assert self.leave.wait(60), "nobody let the program compile"
        return 1


def start_many(receiver: Receiver, gate: Gate) -> tuple[BackgroundCompile, FakeStore]:
    """More programs than there are threads, the first of which has begun."""
    background, store = start(receiver, **{f"slow{index}": gate for index in range(20)})
    assert gate.begun.wait(60)
    return background, store


def test_stop_does_not_wait_and_hands_out_nothing_more() -> None:
    receiver, gate = Receiver(), Gate()
    background, store = start_many(receiver, gate)
    assert not background.wait(0)
    background.stop()
    assert background.wait(0)
    gate.leave.set()
    join(background)
    assert receiver.ready == {}
    assert len(store.compiled) < 20


def test_a_receiver_that_is_gone_stops_it() -> None:
    receiver, gate = Receiver(), Gate()
    background, store = start_many(receiver, gate)
    del receiver
    gc.collect()
    gate.leave.set()
    assert background.wait(60)
    assert len(store.compiled) < 20


def test_tracing_takes_short_turns() -> None:
    def lower() -> Callable[[], float]:
        turn = sys.getswitchinterval()
        return lambda: turn

    receiver = Receiver()
    background = BackgroundCompile(FakeStore(), {"one": lower}, receiver.take)
    background.start_tracing()
    background.start_compiling()
    assert background.wait(60)
    join(background)
    assert receiver.ready["one"] == pytest.approx(1e-4)
    assert sys.getswitchinterval() == pytest.approx(USUAL_TURN)


def test_the_end_of_the_process_waits_for_what_is_compiled() -> None:
    gate = Gate()
    background, _ = start_many(Receiver(), gate)
    threading.Timer(0.2, gate.leave.set).start()
    background._stop_and_join()
    join(background)


def test_the_end_of_the_process_comes_before_it_may_compile() -> None:
    receiver = Receiver()
    background = BackgroundCompile(FakeStore(), {"one": as_lower(lambda: 1)}, receiver.take)
    background.start_tracing()
    background._stop_and_join()
    assert receiver.ready == {}


ENDS_WHILE_TRACING = """
import sys, threading, time
from pathlib import Path
import jax
import numpy as np
from jaxllm.runner.background_compile import BackgroundCompile
from jaxllm.runner.executables import ExecutableStore

begun = threading.Event()

class Receiver:
    def take(self, name, compiled): ...

def function(x):
    y = x + jax.numpy.asarray(np.arange(8, dtype=np.float32))
    begun.set()
    time.sleep(0.5)
    return y

lower = lambda: jax.jit(function).lower(jax.ShapeDtypeStruct((8,), np.float32))
receiver = Receiver()
store = ExecutableStore(Path(sys.argv[1]), "key", jax.devices()[:1])
background = BackgroundCompile(store, {"one": lower}, receiver.take)
background.start_tracing()
background.start_compiling()
begun.wait()
"""


def test_a_process_may_end_while_a_program_is_traced(tmp_path: Path) -> None:
    """JAX's finalizers of constants would otherwise run in the middle of it, and Python be torn down around it."""
    command = [sys.executable, "-c", ENDS_WHILE_TRACING, str(tmp_path)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stderr) == (0, "")
