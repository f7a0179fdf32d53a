"""A program that serves the scripted runner: `python -m tests.server.scripted_server KIND CONFIG`.

It runs the real `serve`, but for the model. Kinds: "slow" takes 20 ms a step, "dying" fails at its first step,
"loading" gets SIGTERM while the model loads.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from jaxllm.async_llm import AsyncJaxLLM
from jaxllm.config import EngineConfig
from jaxllm.server import run
from jaxllm.server.config import ServerConfig
from jaxllm.steps import ScheduledStep
from tests.frontend.helpers import ScriptedRunner, make_async_llm


def slow(step: ScheduledStep) -> None:
    time.sleep(0.02)


def dying(step: ScheduledStep) -> None:
    raise RuntimeError("the device is gone")


def main(kind: str, config: str) -> None:
    def make_llm(engine_config: EngineConfig) -> Any:
        if kind == "loading":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        on_dispatch = {"slow": slow, "dying": dying}[kind]
        return make_async_llm(runner=ScriptedRunner(on_dispatch=on_dispatch, max_model_len=1024))

    AsyncJaxLLM.from_engine_args = make_llm  # type: ignore[method-assign, assignment]
    run.DEATH_GRACE_SECONDS = 2.0
    sys.exit(run.serve(EngineConfig(model="scripted"), ServerConfig(host="127.0.0.1", port=0, **json.loads(config))))


if __name__ == "__main__":
    main(*sys.argv[1:])
