"""Edits of the logits through the whole engine, against numpy: each drawn token is the likeliest after the edits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jaxllm.llm import JaxLLM
from jaxllm.outputs import PositionLogprobs
from jaxllm.sampling_params import SamplingParams

MODEL = Path(__file__).parent / "references" / "data" / "qwen3_untied"
PROMPT = [5, 6, 7, 192, 6, 7]
GREEDY = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, logprobs=-1)


@pytest.fixture(scope="module")
def llm() -> Iterator[JaxLLM]:
    with JaxLLM(
        MODEL,
        skip_tokenizer_init=True,
        dtype="float32",
        device="cpu",
        max_model_len=64,
        max_num_seqs=2,
        max_num_batched_tokens=32,
        kv_cache_memory_bytes="2MB",
        logprobs_mode="raw_logits",
        max_logprobs=-1,
        use_tqdm_on_load=False,
    ) as llm:
        yield llm


def run(llm: JaxLLM, params: SamplingParams) -> tuple[list[int], list[np.ndarray]]:
    """The drawn tokens, and the logits at each position before any edit."""
    completion = llm.generate(PROMPT, params, use_tqdm=False)[0].outputs[0]
    assert completion.logprobs is not None
    return completion.token_ids, [as_logits(position, llm.vocab_size) for position in completion.logprobs]


def as_logits(position: PositionLogprobs, vocab_size: int) -> np.ndarray:
    assert len(position) == vocab_size
    return np.array([position[token_id].logprob for token_id in range(vocab_size)])


def edited(logits: np.ndarray, params: SamplingParams, drawn: list[int]) -> np.ndarray:
    """The same logits as the parameters' definitions have them."""
    logits = logits.copy()
    if params.allowed_token_ids is not None:
        logits[[token_id for token_id in range(len(logits)) if token_id not in params.allowed_token_ids]] = -np.inf
    for token_id, bias in (params.logit_bias or {}).items():
        logits[token_id] += bias
    seen = list({*PROMPT, *drawn})
    repeated = logits[seen]
    logits[seen] = np.where(repeated > 0, repeated / params.repetition_penalty, repeated * params.repetition_penalty)
    counts = np.bincount(drawn, minlength=len(logits))
    return logits - params.frequency_penalty * counts - params.presence_penalty * (counts > 0)


@pytest.mark.parametrize(
    "edits",
    [
        {"logit_bias": {7: 6.0, 192: -100.0, 95: -2.5}},
        {"allowed_token_ids": [3, 4, 95, 192, 265]},
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.7},
        {"presence_penalty": -2.0},
        {"repetition_penalty": 1.8},
        {"repetition_penalty": 0.6},
        {"logit_bias": {7: 3.0}, "frequency_penalty": 1.1, "presence_penalty": 0.4, "repetition_penalty": 1.2},
    ],
)
def test_draws_the_likeliest_token_after_the_edits(llm, edits):
    plain, _ = run(llm, GREEDY)
    params = GREEDY.clone(**edits)
    drawn, logits = run(llm, params)
    expected = [int(edited(position, params, drawn[:index]).argmax()) for index, position in enumerate(logits)]
    assert drawn == expected
    assert drawn != plain
