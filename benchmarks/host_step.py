"""Host time of one engine step: scheduling and updating N running requests, with a runner that does nothing.

It is processor time, so other work on the machine matters little. On a device, all of it hides behind the
step that runs.

python benchmarks/host_step.py --num-requests 256 --num-steps 500
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from jaxllm.engine import Engine, EngineRequest
from jaxllm.steps import ScheduledStep, StepResult

if TYPE_CHECKING:
    from jaxllm.sampling_params import SamplingParams


@dataclass(frozen=True, kw_only=True)
class Params:
    """The fields of SamplingParams that the engine reads."""

    max_tokens: int
    min_tokens: int = 0
    ignore_eos: bool = True
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_reading_prefix_cache: bool | None = None


@dataclass
class NullHandle:
    """A finished step that drew token 1 for everyone."""

    step: ScheduledStep

    def is_ready(self) -> bool:
        return True

    def result(self) -> StepResult:
        token_ids = {request.request_id: 1 for request in self.step.requests if request.samples}
        return StepResult(step_id=self.step.step_id, token_ids=token_ids)


class NullRunner:
    """A runner whose steps cost nothing but the dictionary of their result."""

    num_pages = 65_536
    page_size = 16
    max_model_len = 8192
    max_num_batched_tokens = 8192
    vocab_size = 1000
    num_host_pages = 0

    def __init__(self, max_num_seqs: int) -> None:
        self.max_num_seqs = max_num_seqs

    def dispatch(self, step: ScheduledStep) -> NullHandle:
        return NullHandle(step)

    def reserve_host_pages(self) -> None:
        pass

    def shutdown(self) -> None:
        pass


def measure(num_requests: int, num_steps: int, prompt_len: int) -> np.ndarray:
    """Processor seconds of each step in which all requests decode."""
    engine = Engine(NullRunner(num_requests))
    rng = np.random.default_rng(0)
    params = cast("SamplingParams", Params(max_tokens=num_steps + 500))
    for index in range(num_requests):
        prompt = rng.integers(0, 1000, prompt_len + index % 16)  # so that not all need a new page in the same step
        engine.add_request(
            EngineRequest(request_id=str(index), prompt_token_ids=prompt, sampling_params=params, seed=index)
        )
    while engine.metrics().num_waiting > 0:
        engine.step()
    for _ in range(5):
        engine.step()
    seconds = np.zeros(num_steps)
    for index in range(num_steps):
        start = time.thread_time()
        outputs = engine.step()
        seconds[index] = time.thread_time() - start
        assert len(outputs) == num_requests, f"expected {num_requests} outputs, got {len(outputs)}"
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-requests", type=int, default=256)
    parser.add_argument("--num-steps", type=int, default=500)
    parser.add_argument("--prompt-len", type=int, default=512)
    arguments = parser.parse_args()
    seconds = measure(arguments.num_requests, arguments.num_steps, arguments.prompt_len)
    microseconds = np.percentile(seconds, [10, 50, 90]) * 1e6
    print(f"{arguments.num_requests} running requests: host time of a step", end=" ")
    print(f"p10 {microseconds[0]:.0f} us, median {microseconds[1]:.0f} us, p90 {microseconds[2]:.0f} us")


if __name__ == "__main__":
    main()
