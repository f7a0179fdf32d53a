"""Offline throughput: all requests at once, as fast as the engine can."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxllm.bench.workload import BenchmarkRequest, BenchmarkSampling, sampling_params
from jaxllm.outputs import RequestOutput

if TYPE_CHECKING:
    from jaxllm.llm import JaxLLM


@dataclass(frozen=True, kw_only=True)
class ThroughputResult:
    """What one call of `generate` over all requests took."""

    model_id: str
    """The model as the user named it."""
    elapsed_time: float
    """Seconds from the call to the last token."""
    num_requests: int
    """Prompts, not counting `n`."""
    total_input_tokens: int
    """Prompt tokens, each prompt counted once."""
    total_output_tokens: int
    """Generated tokens of all completions."""
    outputs: Sequence[RequestOutput] = field(default=(), repr=False)
    """What was generated, in the order of the requests."""

    def as_json(self) -> dict[str, Any]:
        """Keys as in vLLM, where tokens_per_second counts prompt and output tokens."""
        total_num_tokens = self.total_input_tokens + self.total_output_tokens
        return {
            "model_id": self.model_id,
            "elapsed_time": self.elapsed_time,
            "num_requests": self.num_requests,
            "total_num_tokens": total_num_tokens,
            "requests_per_second": self.num_requests / self.elapsed_time,
            "tokens_per_second": total_num_tokens / self.elapsed_time,
            "total_input_tokens": self.total_input_tokens,
            "total_output_tokens": self.total_output_tokens,
            "output_tokens_per_second": self.total_output_tokens / self.elapsed_time,
        }

    def summary(self) -> str:
        """Rates, then totals."""
        values = self.as_json()
        return (
            f"Throughput: {values['requests_per_second']:.2f} requests/s, "
            f"{values['tokens_per_second']:.2f} total tokens/s, "
            f"{values['output_tokens_per_second']:.2f} output tokens/s\n"
            f"{self.total_input_tokens} prompt and {self.total_output_tokens} output tokens "
            f"in {self.elapsed_time:.2f} s"
        )


def run_throughput(
    llm: JaxLLM,
    requests: Sequence[BenchmarkRequest],
    sampling: BenchmarkSampling,
    *,
    model_id: str,
    use_tqdm: bool = True,
) -> ThroughputResult:
    """Generates for all requests in one call and counts the tokens that came."""
    prompts = [request.prompt for request in requests]
    params = sampling_params(requests, sampling)
    start = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=use_tqdm)
    elapsed_time = time.perf_counter() - start
    return ThroughputResult(
        model_id=model_id,
        elapsed_time=elapsed_time,
        num_requests=len(requests),
        total_input_tokens=sum(len(request.prompt_token_ids) for request in requests),
        total_output_tokens=sum(_num_output_tokens(output) for output in outputs),
        outputs=outputs,
    )


def _num_output_tokens(output: RequestOutput) -> int:
    return sum(len(completion.token_ids) for completion in output.outputs)
