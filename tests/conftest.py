"""Settings of the whole test run; they must be in the environment before anything imports jax."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

NUM_VIRTUAL_DEVICES = 4
"""CPU devices that jax sees, enough for two- and four-way tensor parallelism."""

STRICT_DTYPE_PROMOTION = True
"""Whether mixing dtypes without a cast is an error in tests."""

STRICT_RANK_PROMOTION = True
"""Whether broadcasting arrays of different rank without a reshape is an error in tests."""

# How long an example takes says more about the machine, and about what had to be compiled, than about the code.
settings.register_profile("jaxllm", deadline=None)
settings.load_profile("jaxllm")


def pytest_configure(config: pytest.Config) -> None:
    # A run in the background of a shell inherits that Ctrl-C is ignored, and there are tests of Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if STRICT_DTYPE_PROMOTION:
        os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
    if STRICT_RANK_PROMOTION:
        os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
    # Tokenizers warn about processes that fork after they were used.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Log lines go to the root logger, where caplog sees them.
    os.environ["JAXLLM_CONFIGURE_LOGGING"] = "0"
    # Compiled programs are shared by the workers of a run and by later runs, apart from the user's own.
    os.environ["JAXLLM_CACHE_DIR"] = str(config.rootpath / ".pytest_cache" / "jaxllm")
    if not _wants_gpu(config):
        os.environ["JAX_PLATFORMS"] = "cpu"
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={NUM_VIRTUAL_DEVICES}".strip()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _wants_gpu(config):
        return
    skip = pytest.mark.skip(reason="runs on a GPU only: pytest -m gpu")
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(skip)


def _wants_gpu(config: pytest.Config) -> bool:
    """Whether this is `pytest -m gpu`, which leaves the choice of the platform to jax."""
    return bool(config.getoption("markexpr") == "gpu")
