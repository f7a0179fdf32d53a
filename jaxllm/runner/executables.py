"""Compiled programs, kept on disk so that a second start neither traces nor compiles.

An entry is found by a key over everything that shapes the program: configuration, shapes, code, versions and device.
Entries are written whole or not at all, and one that can't be read is compiled again. They hold machine code: the
directory must be as trusted as the code itself.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import platform
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

logger = logging.getLogger(__name__)

Compiled = Callable[..., Any]
Lower = Callable[[], Any]
"""Traces and lowers a program; `.compile()` of the result compiles it."""

_CODE = ("models", "pallas_kernels", "runner")
_NUM_COMPILERS = min(8, os.cpu_count() or 1)
_VERSIONED = ("jaxlib", "triton", "jax-triton")
"""Packages whose code goes into programs; the last two are there on GPUs only."""


class ExecutableStore:
    """Gets programs from disk, or compiles and keeps them."""

    def __init__(self, directory: Path, key: str, devices: list[jax.Device]) -> None:
        self._directory = directory
        self._key = key
        self._devices = devices
        self.num_compiled = 0
        """Programs that had to be compiled."""

    def get_all(self, programs: dict[str, Lower], on_done: Callable[[str], None]) -> dict[str, Compiled]:
        """All programs by name; missing ones are traced one by one and compiled side by side."""
        found: dict[str, Compiled] = {}
        with ThreadPoolExecutor(_NUM_COMPILERS, thread_name_prefix="compile") as pool:
            loading = {name: pool.submit(self._load, self._path(name)) for name in programs}
            for name, future in loading.items():
                if (compiled := future.result()) is not None:
                    found[name] = compiled
                    on_done(name)
            compiling = {
                pool.submit(self._compile, name, lower()): name for name, lower in programs.items() if name not in found
            }
            for done in as_completed(compiling):
                found[compiling[done]] = done.result()
                on_done(compiling[done])
        self.num_compiled += len(compiling)
        return found

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(f"{self._key}\n{name}".encode()).hexdigest()
        return self._directory / f"{name}-{digest[:32]}.bin"

    def _load(self, path: Path) -> Compiled | None:
        try:
            blob = path.read_bytes()
        except OSError:
            return None
        digest, body = blob[:32], blob[32:]
        if hashlib.sha256(body).digest() != digest:
            logger.warning("Compiled program %s is damaged and will be compiled again.", path)
            return None
        try:
            payload, in_tree, out_tree = pickle.loads(body)
            return serialize_executable.deserialize_and_load(
                payload, in_tree, out_tree, execution_devices=self._devices
            )
        except Exception as error:  # whatever a foreign or outdated entry raises, compiling is the cure
            logger.warning("Compiled program %s can't be loaded (%s) and will be compiled again.", path, error)
            return None

    def _compile(self, name: str, lowered: Any) -> Compiled:
        compiled = lowered.compile()
        try:
            self._write(self._path(name), pickle.dumps(serialize_executable.serialize(compiled)))
        except (OSError, ValueError, TypeError) as error:
            logger.warning("Compiled program %s can't be kept for the next start: %s", name, error)
        return compiled

    def _write(self, path: Path, body: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(hashlib.sha256(body).digest() + body)
        os.replace(file.name, path)


def program_key(*parts: object) -> str:
    """A key over `parts` and over what every program depends on: code, versions, flags and the machine."""
    common = (_code_digest(), jax.__version__, _versions(), os.environ.get("XLA_FLAGS", ""), _machine())
    return "\n".join(repr(part) for part in (*parts, *common))


@cache
def _code_digest() -> str:
    """Digest of the sources that programs are traced from."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for folder in _CODE:
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _versions() -> tuple[str | None, ...]:
    found: list[str | None] = []
    for package in _VERSIONED:
        try:
            found.append(version(package))
        except PackageNotFoundError:
            found.append(None)
    return tuple(found)


@cache
def _machine() -> str:
    """What CPU code is compiled for: the architecture and the processor's instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        flags = platform.processor()
    return f"{platform.machine()} {os.cpu_count()} {hashlib.sha256(flags.encode()).hexdigest()}"
