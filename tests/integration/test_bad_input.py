"""Wrong inputs are refused with a message, and leave a real engine as it was."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxllm.errors import ValidationError
from jaxllm.sampling_params import SamplingParams
from tests.integration.helpers import drawn, generate, needs_glassllm
from tests.references.reference import load_reference

pytestmark = needs_glassllm

VOCAB_SIZE = 1024
MODEL_LEN = 128

NO_NUMBER = st.sampled_from([math.nan, math.inf, -math.inf, -5, "1", None, [], {}, 1j, b"1", object()])
NO_COUNT = st.one_of(NO_NUMBER, st.integers(max_value=-2), st.sampled_from([0.5, "2", [1]]))
FOREIGN_IDS = st.one_of(st.integers(VOCAB_SIZE, 2**70), st.integers(-(2**70), -1))
RIGHT_IDS = st.integers(0, VOCAB_SIZE - 1)

ONE_WRONG_PROMPT = st.one_of(
    st.sampled_from(["", [], (), {}, {"prompt": ""}, {"prompt": None}, {"prompt_token_ids": []}, {"text": "Alice"}]),
    st.sampled_from([{"prompt": 5}, {"prompt_token_ids": "Alice"}, {"prompt": "Alice", "cache_salt": 3}, "\ud800"]),
    st.lists(RIGHT_IDS, min_size=MODEL_LEN, max_size=MODEL_LEN + 20),
    st.text("xyz", min_size=3 * MODEL_LEN, max_size=4 * MODEL_LEN),
    st.tuples(st.lists(RIGHT_IDS, max_size=5), FOREIGN_IDS).map(lambda pair: [*pair[0], pair[1]]),
    st.tuples(st.lists(RIGHT_IDS, max_size=5), st.sampled_from([1.0, "a", None, True, [1]])).map(
        lambda pair: {"prompt_token_ids": [*pair[0], pair[1]]}
    ),
)
WRONG_PROMPTS = st.one_of(
    st.sampled_from([5, None, 1.5, b"Alice", object(), True]),
    ONE_WRONG_PROMPT.filter(lambda prompt: prompt not in ([], ())),
    # The right ones around the wrong one must not be left behind.
    ONE_WRONG_PROMPT.map(lambda prompt: ["Alice", prompt, "The Queen"]),
)


def fields(names: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(st.sampled_from(names.split()), values).map(lambda pair: {pair[0]: pair[1]})


WRONG_PARAMS = st.one_of(
    st.sampled_from([{"n": 0}, {"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"min_p": -0.1}, {"top_k": -2}]),
    st.sampled_from([{"max_tokens": 0}, {"min_tokens": 20, "max_tokens": 10}, {"n": 2, "temperature": 0.0}]),
    fields("temperature top_p min_p presence_penalty frequency_penalty repetition_penalty", NO_NUMBER),
    fields("presence_penalty frequency_penalty", st.one_of(st.floats(2.001, 1e30), st.floats(-1e30, -2.001))),
    fields("repetition_penalty", st.floats(-1e30, 0.0)),
    fields("n min_tokens", NO_COUNT),
    fields("logprobs prompt_logprobs", st.one_of(st.integers(21, 2**40), st.integers(max_value=-2))),
    fields("seed", st.sampled_from(["7", 1.5, [7], 2**70])),
    fields("ignore_eos detokenize skip_special_tokens include_stop_str_in_output", st.sampled_from(["yes", None, []])),
    fields("stop bad_words", st.sampled_from([[""], [1], 5, [None], {"a": 1}])),
    fields("stop_token_ids allowed_token_ids", st.lists(FOREIGN_IDS, min_size=1, max_size=3)),
    fields("allowed_token_ids", st.just([])),
    st.dictionaries(FOREIGN_IDS, st.floats(-100, 100), min_size=1, max_size=3).map(lambda bias: {"logit_bias": bias}),
    st.dictionaries(st.integers(0, VOCAB_SIZE - 1), st.just(1.0), min_size=513, max_size=513).map(
        lambda bias: {"logit_bias": bias}
    ),
    fields("output_kind", st.sampled_from(["DELTA", 1, None])),
    fields("structured_outputs thinking_token_budget extra_args", st.sampled_from([{"json": "{}"}, 5, "x"])),
    fields("best_of use_beam_search logits_processors guided_decoding", st.sampled_from([[print], 5])),
    st.text("qxz_", min_size=3, max_size=9).map(lambda name: {name: 1}),
)
WRONG_OPTIONS = st.one_of(
    st.sampled_from([{"use_tqdm": "yes"}, {"stream": 1}, {"priority": 1}, {"priority": "high"}, {"lora_request": "a"}]),
    st.sampled_from([{"tokenization_kwargs": {"padding": True}}, {"tokenization_kwargs": 5}, {"sampling": 1}]),
)
WRONG_CALLS = st.one_of(
    st.tuples(WRONG_PROMPTS, st.just({}), st.just({})),
    st.tuples(st.just("Alice"), WRONG_PARAMS, st.just({})),
    st.tuples(st.just(["Alice", "The Queen"]), st.just({}), WRONG_OPTIONS),
    st.tuples(WRONG_PROMPTS, WRONG_PARAMS, WRONG_OPTIONS),
)


def test_a_right_input_after_300_wrong_ones(glassllm):
    num_refused = 0

    @settings(max_examples=300, database=None, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(call=WRONG_CALLS)
    def send(call: tuple[Any, dict[str, Any], dict[str, Any]]) -> None:
        nonlocal num_refused
        prompts, params, options = call
        with pytest.raises((ValueError, TypeError)) as caught:
            glassllm.generate(prompts, SamplingParams(**params), **({"use_tqdm": False} | options))
        assert len(str(caught.value)) > 10
        assert_idle(glassllm)
        num_refused += 1

    steps = glassllm.get_metrics().num_steps
    send()
    assert num_refused >= 300
    assert glassllm.get_metrics().num_steps == steps
    assert_works(glassllm)


def test_one_wrong_prompt_among_many_adds_none(glassllm):
    with pytest.raises(ValidationError, match=r"prompts\[50\] must hold token ids from 0 to 1023, got 1024"):
        generate(glassllm, [[5, 6]] * 50 + [[1024]])
    assert_idle(glassllm)


def test_a_stream_refuses_before_it_starts(glassllm):
    with pytest.raises(ValidationError, match=r"prompts\[1\] must have at least one token"):
        glassllm.generate(["Alice", ""], stream=True)
    assert_idle(glassllm)


def test_wrong_conversations(glassllm):
    for messages in ("hello", [{"role": "user"}], [5], [[{"role": 3, "content": "x"}]], None):
        with pytest.raises((ValueError, TypeError)):
            glassllm.chat(messages, use_tqdm=False)
    assert_works(glassllm)


def assert_idle(llm) -> None:
    metrics = llm.get_metrics()
    assert (metrics.num_running, metrics.num_waiting, metrics.kv_cache_usage) == (0, 0, 0.0)


def assert_works(llm) -> None:
    reference = load_reference("glassllm-en")
    params = SamplingParams(temperature=0.0, max_tokens=64, ignore_eos=True)
    assert drawn(generate(llm, reference.prompts, params)) == reference.outputs
    assert llm.reset_prefix_cache()
    assert_idle(llm)
    pool = llm._built.engine._page_tables.pool
    assert pool.num_free == pool.num_pages - 1
