"""system_fingerprint: tells clients whether two answers came from the same model in the same setting."""

from __future__ import annotations

import hashlib
import json

from jaxllm import __version__
from jaxllm.config import EngineConfig
from jaxllm.server.config import ServerConfig

_CHANGE_RESULTS = (
    "model",
    "revision",
    "dtype",
    "load_format",
    "tensor_parallel_size",
    "logprobs_mode",
    "seed",
    "device",
)


def make_fingerprint(engine: EngineConfig, server: ServerConfig) -> str | None:
    """As `fingerprint_mode` says; the hash is over what changes an answer."""
    if server.fingerprint_mode == "none":
        return None
    if server.fingerprint_mode == "custom":
        return server.fingerprint_value
    values = {name: str(getattr(engine, name)) for name in _CHANGE_RESULTS}
    digest = hashlib.sha256(json.dumps([__version__, values]).encode()).hexdigest()[:8]
    if server.fingerprint_mode == "hash":
        return digest
    parallelism = f"-tp{engine.tensor_parallel_size}" if engine.tensor_parallel_size > 1 else ""
    return f"jaxllm-{__version__}{parallelism}-{digest}"
