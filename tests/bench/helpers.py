"""A stand-in for JaxLLM that answers at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxllm.outputs import CompletionOutput, RequestOutput
from jaxllm.sampling_params import SamplingParams

Prompt = dict[str, list[int]]


@dataclass
class FakeLLM:
    """Generates `max_tokens` tokens for each prompt, streams them one at a time, and remembers its calls."""

    vocab_size: int = 100
    startup_seconds: dict[str, float] = field(default_factory=dict)
    calls: list[dict[str, Any]] = field(default_factory=list)
    is_shut_down: bool = False
    num_programs_to_compile: int = 0
    """Until `wait_until_compiled`."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling_params: Sequence[SamplingParams],
        use_tqdm: bool = True,
        stream: bool = False,
    ) -> list[RequestOutput] | Iterator[RequestOutput]:
        assert self.num_programs_to_compile == 0, "measured while programs were compiled"
        self.calls.append({"prompts": prompts, "params": sampling_params, "use_tqdm": use_tqdm, "stream": stream})
        if stream:
            return self._stream(prompts, sampling_params)
        return [
            make_output(index, prompt, num_tokens=params.max_tokens or 0, n=params.n)
            for index, (prompt, params) in enumerate(zip(prompts, sampling_params, strict=True))
        ]

    def _stream(self, prompts: Sequence[Prompt], sampling_params: Sequence[SamplingParams]) -> Iterator[RequestOutput]:
        for index, (prompt, params) in enumerate(zip(prompts, sampling_params, strict=True)):
            for _ in range(params.max_tokens or 0):
                yield make_output(index, prompt, num_tokens=1, n=params.n)

    def wait_until_compiled(self) -> bool:
        self.num_programs_to_compile = 0
        return True

    def shutdown(self) -> None:
        self.is_shut_down = True


def make_output(index: int, prompt: Prompt, *, num_tokens: int, n: int = 1) -> RequestOutput:
    """An output with `n` completions of `num_tokens` tokens each."""
    completions = [
        CompletionOutput(index=completion, text="", token_ids=[7] * num_tokens, finish_reason="length")
        for completion in range(n)
    ]
    return RequestOutput(
        request_id=str(index),
        prompt=None,
        prompt_token_ids=prompt["prompt_token_ids"],
        outputs=completions,
        finished=True,
    )
