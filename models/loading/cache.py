"""Where jaxllm keeps the files it makes itself."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """Gives `$JAXLLM_CACHE_DIR`, else `$XDG_CACHE_HOME/jaxllm`, else `~/.cache/jaxllm`; it may not exist yet."""
    chosen = os.environ.get("JAXLLM_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "jaxllm"
