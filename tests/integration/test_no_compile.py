"""Nothing is compiled while an engine serves, whatever requests ask for."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from jaxllm.beam_search_params import BeamSearchParams
from jaxllm.llm import JaxLLM
from jaxllm.runner.compile_counter import num_compiles
from jaxllm.sampling_params import RequestOutputKind, SamplingParams
from tests.integration.helpers import needs_glassllm, start_glassllm

NUM_REQUESTS = 200
CALL_SIZE = 20

FEATURES: list[Callable[[random.Random], dict[str, Any]]] = [
    lambda draw: {"temperature": 0.0},
    lambda draw: {"temperature": draw.uniform(0.1, 2.0), "seed": draw.randrange(2**32)},
    lambda draw: {"top_k": draw.randint(1, 1000)},
    lambda draw: {"top_p": draw.uniform(0.05, 1.0)},
    lambda draw: {"min_p": draw.uniform(0.0, 0.5)},
    lambda draw: {"presence_penalty": draw.uniform(-2, 2), "frequency_penalty": draw.uniform(-2, 2)},
    lambda draw: {"repetition_penalty": draw.uniform(0.5, 2.0)},
    lambda draw: {"logit_bias": {draw.randrange(1024): draw.uniform(-100, 100) for _ in range(draw.randint(1, 300))}},
    lambda draw: {"allowed_token_ids": [draw.randrange(1024) for _ in range(draw.randint(1, 500))]},
    lambda draw: {"bad_words": draw.sample(["Alice", "the Queen", "said", "very much"], draw.randint(1, 4))},
    lambda draw: {"min_tokens": draw.randint(1, 8), "max_tokens": draw.randint(8, 40)},
    lambda draw: {"stop": ["Queen", "e"], "include_stop_str_in_output": draw.random() < 0.5},
    lambda draw: {"stop_token_ids": [draw.randrange(1024) for _ in range(50)]},
    lambda draw: {"logprobs": draw.randint(0, 20)},
    lambda draw: {"prompt_logprobs": draw.randint(0, 20)},
    lambda draw: {"n": draw.randint(2, 4), "temperature": 1.0},
    lambda draw: {"ignore_eos": True, "max_tokens": None},
    lambda draw: {"detokenize": False},
    lambda draw: {"skip_reading_prefix_cache": True},
    lambda draw: {"output_kind": RequestOutputKind.DELTA, "stream_interval": draw.randint(1, 5)},
    lambda draw: {"truncate_prompt_tokens": draw.randint(1, 20)},
]


def random_params(draw: random.Random) -> SamplingParams:
    fields: dict[str, Any] = {"max_tokens": draw.randint(1, 40)}
    for feature in draw.sample(FEATURES, draw.randint(1, 5)):
        fields |= feature(draw)
    if fields.get("temperature") == 0.0:
        fields["n"] = 1
    if not fields.get("detokenize", True):
        fields.pop("stop", None)
    if fields["max_tokens"] is not None:
        fields["min_tokens"] = min(fields.get("min_tokens", 0), fields["max_tokens"])
    return SamplingParams(**fields)


def random_search(draw: random.Random) -> BeamSearchParams:
    return BeamSearchParams(
        beam_width=draw.randint(1, 8),
        max_tokens=draw.randint(1, 20),
        ignore_eos=draw.random() < 0.5,
        temperature=draw.choice([0.0, 0.7]),
        allowed_token_ids=draw.choice([None, range(100, 300)]),
    )


def run_call(llm: JaxLLM, draw: random.Random, kind: int) -> None:
    """Twenty requests: waited for, streamed, streamed with aborts, or given up in the middle."""
    prompts = [[draw.randrange(4, 1024) for _ in range(draw.randint(1, 127))] for _ in range(CALL_SIZE)]
    prompts[1] = prompts[0]
    params: list[Any] = [random_params(draw) for _ in prompts]
    if kind == 0:
        params[::4] = [random_search(draw) for _ in params[::4]]
        assert len(llm.generate(prompts, params, use_tqdm=False)) == CALL_SIZE
        return
    stream = llm.generate(prompts, params, stream=True)
    for index, output in enumerate(stream):
        if kind == 2 and index % 10 == 9:
            llm.abort(output.request_id)
        if kind == 3 and index == 30:
            stream.close()


@needs_glassllm
def test_no_compile_after_warm_up():
    draw = random.Random(0)

    with start_glassllm() as llm:
        warm = num_compiles()
        for index in range(NUM_REQUESTS // CALL_SIZE):
            run_call(llm, draw, kind=index % 4)
        assert num_compiles() == warm
        metrics = llm.get_metrics()
    assert (metrics.num_running, metrics.num_waiting, metrics.kv_cache_usage) == (0, 0, 0.0)
    assert sum(metrics.finished_by_reason.values()) >= NUM_REQUESTS
    assert {"stop", "length", "abort"} <= metrics.finished_by_reason.keys()


def test_the_counter_counts():
    import jax
    import jax.numpy as jnp

    before = num_compiles()
    jax.jit(lambda x: x * 3 + 7)(jnp.arange(13)).block_until_ready()
    assert num_compiles() > before
