"""The process that `jaxllm bench startup` measures: load, generate one token, write the seconds of each phase.

Run as `python -m jaxllm.bench.startup_child ENGINE_ARGUMENTS_JSON START_TIME RESULT_FILE`.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any


def main(engine_arguments: dict[str, Any], process_start: float, result_file: Path) -> None:
    """Measures this process, which began at `process_start` of `time.time()`."""
    from jaxllm.llm import JaxLLM
    from jaxllm.sampling_params import SamplingParams

    importlib.import_module("jaxllm.build")  # JaxLLM would import it, with jax, only when an engine is made
    imported = time.time()
    llm = JaxLLM(**engine_arguments)
    ready = time.time()
    params = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True, detokenize=False)
    llm.generate({"prompt_token_ids": [0]}, params, use_tqdm=False)
    first_token = time.time()
    phases = {"import": imported - process_start, **llm.startup_seconds, "first_token": first_token - ready}
    if llm.num_programs_to_compile:
        llm.wait_until_compiled()  # a warm start is one that finds them all
        phases["other_programs"] = time.time() - first_token
    result = {
        "startup": ready - imported,
        "compilation": llm.startup_seconds.get("compile", 0.0),
        "time_to_first_token": first_token - process_start,
        "phases": phases,
    }
    llm.shutdown()
    result_file.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))
