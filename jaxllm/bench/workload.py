"""What a benchmark runs: prompts as token ids, and the tokens to generate for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxllm.errors import ValidationError
from jaxllm.inputs import TokensPrompt
from jaxllm.sampling_params import RequestOutputKind, SamplingParams


@dataclass(frozen=True, kw_only=True)
class BenchmarkRequest:
    """One prompt and the number of tokens to generate for it."""

    prompt_token_ids: list[int]
    """The prompt."""
    output_len: int
    """Tokens to generate; EOS does not end the request."""
    text: str | None = None
    """The prompt as the dataset has it, if that is text."""

    @property
    def prompt(self) -> TokensPrompt:
        """The prompt in the form that `JaxLLM.generate` takes."""
        return TokensPrompt(prompt_token_ids=self.prompt_token_ids)


@dataclass(frozen=True, kw_only=True)
class BenchmarkSampling:
    """Sampling shared by all requests of a benchmark."""

    n: int = 1
    """Completions per prompt."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """1 keeps all tokens."""
    top_k: int = 0
    """0 keeps all tokens."""
    detokenize: bool = True
    """False measures without turning tokens into text."""

    def params(self, output_len: int, output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE) -> SamplingParams:
        """Parameters of a request that generates exactly `output_len` tokens."""
        return SamplingParams(
            n=self.n,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            detokenize=self.detokenize,
            ignore_eos=True,
            max_tokens=output_len,
            output_kind=output_kind,
        )


def random_requests(
    *, num_requests: int, input_len: int, output_len: int, vocab_size: int, seed: int
) -> list[BenchmarkRequest]:
    """Requests of equal length whose prompts are uniform random token ids; the same seed gives the same prompts."""
    check_counts(num_requests=num_requests, input_len=input_len, output_len=output_len)
    rng = np.random.default_rng(seed)
    prompts = rng.integers(0, vocab_size, size=(num_requests, input_len))
    return [BenchmarkRequest(prompt_token_ids=prompt, output_len=output_len) for prompt in prompts.tolist()]


def check_counts(**counts: int) -> None:
    """Refuses counts and lengths below 1."""
    for name, value in counts.items():
        if value < 1:
            raise ValidationError(f"{name} must be at least 1, got {value}", parameter=name)


def sampling_params(requests: Sequence[BenchmarkRequest], sampling: BenchmarkSampling) -> list[SamplingParams]:
    """One set of parameters per request, in order."""
    return [sampling.params(request.output_len) for request in requests]
