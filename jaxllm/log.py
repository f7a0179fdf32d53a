"""What jaxllm tells at start-up and while serving, on standard error unless the program set up logging itself."""

from __future__ import annotations

import logging
import os

_FORMAT = "%(levelname)s %(asctime)s %(message)s"


def set_up_logging() -> None:
    """Prints the package's log lines from `JAXLLM_LOGGING_LEVEL` (or VLLM_LOGGING_LEVEL, default INFO) on."""
    logger = logging.getLogger("jaxllm")
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_FORMAT, datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    level = os.environ.get("JAXLLM_LOGGING_LEVEL") or os.environ.get("VLLM_LOGGING_LEVEL") or "INFO"
    logger.setLevel(level.upper())
