"""Compiled programs, kept on disk so that a second start neither traces nor compiles.

An entry is found by a key over everything that shapes the program: configuration, shapes, code, versions, device and
driver. It carries that key and a digest of itself: one that was made for something else, or that is damaged, is
compiled again and never unpickled. Entries are written whole or not at all. They hold machine code: the directory must
be as trusted as the code itself.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

from jaxllm.runner.cache_files import write_whole

logger = logging.getLogger(__name__)

Compiled = Callable[..., Any]
Lower = Callable[[], Any]
"""Traces and lowers a program; `.compile()` of the result compiles it."""

_NUM_COMPILERS = min(8, os.cpu_count() or 1)
_DIGEST_SIZE = hashlib.sha256().digest_size


@dataclass(frozen=True, kw_only=True)
class CompileTimes:
    """Seconds that one program took."""

    trace: float
    """Tracing and lowering, in Python."""
    compile: float
    """XLA's part, and writing the result."""


class ExecutableStore:
    """Gets programs from disk, or compiles and keeps them. Threads may share it."""

    def __init__(self, directory: Path, key: str, devices: list[jax.Device]) -> None:
        self._directory = directory
        self._key = key
        self._devices = devices
        self._lock = threading.Lock()
        self._trace_seconds: dict[str, float] = {}
        self.compile_times: dict[str, CompileTimes] = {}
        """Of the programs that had to be compiled, by name."""
        self.num_loaded = 0
        """Programs that were on disk."""

    @property
    def num_compiled(self) -> int:
        """Programs that had to be compiled."""
        return len(self.compile_times)

    def get_all(self, programs: Mapping[str, Lower], on_done: Callable[[str], None]) -> dict[str, Compiled]:
        """All programs by name: from disk, or else compiled."""
        found = self.load_all(programs, on_done)
        missing = {name: lower for name, lower in programs.items() if name not in found}
        return found | self.compile_all(missing, on_done)

    def load_all(self, names: Iterable[str], on_done: Callable[[str], None]) -> dict[str, Compiled]:
        """Those of the programs that are on disk."""
        found: dict[str, Compiled] = {}
        with ThreadPoolExecutor(_NUM_COMPILERS, thread_name_prefix="load-program") as pool:
            loading = {name: pool.submit(self._load, name) for name in names}
            for name, future in loading.items():
                if (compiled := future.result()) is not None:
                    found[name] = compiled
                    on_done(name)
        self.num_loaded += len(found)
        return found

    def compile_all(
        self,
        programs: Mapping[str, Lower],
        on_done: Callable[[str], None],
        *,
        on_traced: Callable[[], None] = lambda: None,
    ) -> dict[str, Compiled]:
        """All programs by name: traced one after the other, because Python can do no better, compiled side by side.

        `on_traced` is called when the last one is traced, and Python is idle until they are compiled.
        """
        compiled: dict[str, Compiled] = {}
        with ThreadPoolExecutor(_NUM_COMPILERS, thread_name_prefix="compile") as pool:
            compiling = {
                pool.submit(self.compile, name, self.trace(name, lower)): name for name, lower in programs.items()
            }
            on_traced()
            for done in as_completed(compiling):
                compiled[compiling[done]] = done.result()
                on_done(compiling[done])
        return compiled

    def trace(self, name: str, lower: Lower) -> Any:
        """Traces and lowers one program, for `compile`."""
        started = time.perf_counter()
        lowered = lower()
        with self._lock:
            self._trace_seconds[name] = time.perf_counter() - started
        return lowered

    def compile(self, name: str, lowered: Any) -> Compiled:
        """Compiles one program that `trace` gave, and keeps it for the next start."""
        started = time.perf_counter()
        compiled = lowered.compile()
        try:
            body = pickle.dumps(serialize_executable.serialize(compiled))
            write_whole(self._path(name), self._name_digest(name) + hashlib.sha256(body).digest() + body)
        except (OSError, ValueError, TypeError) as error:
            logger.warning("Compiled program %s can't be kept for the next start: %s", name, error)
        seconds = time.perf_counter() - started
        with self._lock:
            self.compile_times[name] = CompileTimes(trace=self._trace_seconds.pop(name), compile=seconds)
        return compiled

    def _name_digest(self, name: str) -> bytes:
        return hashlib.sha256(f"{self._key}\n{name}".encode()).digest()

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}-{self._name_digest(name).hex()[:32]}.bin"

    def _load(self, name: str) -> Compiled | None:
        path = self._path(name)
        try:
            entry = path.read_bytes()
        except OSError:
            return None
        made_for, digest = entry[:_DIGEST_SIZE], entry[_DIGEST_SIZE : 2 * _DIGEST_SIZE]
        body = entry[2 * _DIGEST_SIZE :]
        if made_for != self._name_digest(name) or hashlib.sha256(body).digest() != digest:
            logger.warning("Compiled program %s is damaged or another's and will be compiled again.", path)
            return None
        try:
            payload, in_tree, out_tree = pickle.loads(body)
            return serialize_executable.deserialize_and_load(
                payload, in_tree, out_tree, execution_devices=self._devices
            )
        except Exception as error:  # whatever an entry raises that this machine can't run, compiling is the cure
            logger.warning("Compiled program %s can't be loaded (%s) and will be compiled again.", path, error)
            return None
