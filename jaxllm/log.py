"""What jaxllm tells at start-up and while serving, as log lines on standard error."""

from __future__ import annotations

import logging
import os

_FORMAT = "%(levelname)s %(asctime)s %(message)s"


def set_up_logging() -> None:
    """Gives the package's logger a handler of its own, unless the program did.

    `JAXLLM_LOGGING_LEVEL` (or VLLM_LOGGING_LEVEL, default INFO) is the level; `JAXLLM_CONFIGURE_LOGGING=0` leaves all
    to the program.
    """
    logger = logging.getLogger("jaxllm")
    if logger.handlers or os.environ.get("JAXLLM_CONFIGURE_LOGGING") == "0":
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_FORMAT, datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    logger.propagate = False  # else a handler of the root logger would print each line again
    level = os.environ.get("JAXLLM_LOGGING_LEVEL") or os.environ.get("VLLM_LOGGING_LEVEL") or "INFO"
    logger.setLevel(level.upper())
