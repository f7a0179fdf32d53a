"""What JaxLLM says to wrong input, and that the engine works afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxllm.errors import ValidationError
from jaxllm.sampling_params import SamplingParams
from tests.frontend.helpers import TOKENIZER, ScriptedRunner, ids, make_llm, texts


def num_unfinished(llm):
    metrics = llm.get_metrics()
    return metrics.num_running + metrics.num_waiting


def test_a_text_that_must_be_too_long_is_refused_before_it_is_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = make_llm()
    encoded: list[str] = []
    encode_batch = TOKENIZER.encode_batch

    def record(texts: Any, *rest: Any) -> Any:
        encoded.extend(texts)
        return encode_batch(texts, *rest)

    monkeypatch.setattr(TOKENIZER, "encode_batch", record)
    text = "a" * (64 * TOKENIZER.longest_token + 1)
    message = r"at most 63 tokens .*, got a text of 321 characters, where no token has more than 5"
    with pytest.raises(ValidationError, match=message):
        llm.generate(text, SamplingParams(max_tokens=1), use_tqdm=False)
    assert encoded == []
    llm.generate(text, SamplingParams(max_tokens=1, truncate_prompt_tokens=5), use_tqdm=False)
    assert encoded == [text]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("", "prompt must have at least one token, got an empty prompt"),
        (["a", ""], r"prompts\[1\] must have at least one token, got an empty prompt"),
        ([[]], "prompt must have at least one token, got an empty prompt"),
        ("a" * 64, r"prompt must have at most 63 tokens \(max_model_len 64 less one to generate\), got 64"),
        ([0, 258], "prompt must hold token ids from 0 to 257, got 258"),
        ([[1], [-1]], r"prompts\[1\] must hold token ids from 0 to 257, got -1"),
        ([1, 2.5], r"prompts\[1\] must be an integer, got 2.5 \(float\)"),
        ([1, True], r"prompts\[1\] must be an integer, got True \(bool\)"),
        ([1, "a"], r"prompts\[1\] must be an integer, got 'a' \(str\)"),
        (["a", 5], r"prompts\[1\] must be a string, a list of token ids or a mapping, got 5"),
        (["a", None], r"prompts\[1\] must be a string, a list of token ids or a mapping, got None"),
        (5, "prompts must be a string, a list of token ids, a mapping, or a list of those, got 5"),
        (b"bytes", "prompts must be a string, a list of token ids, a mapping, or a list of those, got b'bytes'"),
        ({}, "prompts must have 'prompt' or 'prompt_token_ids', got neither"),
        ({"prompt": 5}, r"prompts\['prompt'\] must be a string, got 5"),
        ({"text": "a"}, "prompts may have the keys prompt, prompt_token_ids, cache_salt; got 'text'"),
        ({"prompt": "a", "cache_salt": ""}, r"prompts\['cache_salt'\] must be a string that is not empty"),
        ({"prompt": "a", "multi_modal_data": {"image": 1}}, "prompts: multi_modal_data is not supported yet"),
        ({"prompt_embeds": [1.0]}, "prompts: prompt_embeds is not supported yet"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_wrong_prompt(prompts, message):
    llm = make_llm()
    with pytest.raises(ValidationError, match=message):
        llm.generate(prompts, use_tqdm=False)
    assert num_unfinished(llm) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling_params": {"n": 1}}, "sampling_params must be a SamplingParams, got {'n': 1}"),
        (
            {"sampling_params": [SamplingParams()] * 3},
            "sampling_params must be one value or one per prompt: got 3 for 2",
        ),
        ({"sampling_params": [SamplingParams(), 5]}, r"sampling_params\[1\] must be a SamplingParams, got 5"),
        ({"sampling_params": SamplingParams(stop_token_ids=[999])}, "stop_token_ids must hold token ids below .* 258"),
        ({"sampling_params": SamplingParams(logprobs=21)}, "logprobs must be at most max_logprobs, .* 20, got 21"),
        ({"priority": "high"}, "priority must be an integer, got 'high'"),
        ({"priority": [1]}, "priority must be one value or one per prompt: got 1 for 2 prompts"),
        ({"priority": 1}, "priority must be 0 unless scheduling_policy is 'priority', got 1"),
        ({"lora_request": "x"}, "lora_request is not supported yet: leave it at None, got 'x'"),
        ({"mm_processor_kwargs": {}}, "mm_processor_kwargs is not supported yet"),
        ({"prompt_adapter_request": "x"}, "prompt_adapter_request is not supported yet"),
        ({"guided_options_request": {}}, "guided_options_request is not supported yet"),
        ({"tokenization_kwargs": 5}, "tokenization_kwargs must be a mapping, got 5"),
        ({"tokenization_kwargs": {"color": 1}}, "tokenization_kwargs may hold add_special_tokens, .* got 'color'"),
        ({"tokenization_kwargs": {"padding": True}}, "padding must be False: prompts are never padded"),
        ({"tokenization_kwargs": {"truncation": True}}, "truncation needs max_length or truncate_prompt_tokens"),
        ({"tokenization_kwargs": {"max_length": 1}}, r"prompts\[1\] must have at most max_length \(1\) tokens, got 2"),
        ({"tokenization_kwargs": {"truncate_prompt_tokens": 0}}, "truncate_prompt_tokens must be at least 1, or -1"),
        (
            {"tokenization_kwargs": {"truncation_side": "up"}},
            "truncation_side must be one of 'left', 'right', got 'up'",
        ),
        ({"use_tqdm": "yes"}, "use_tqdm must be a bool or a function that makes a bar, got 'yes'"),
        ({"stream": 1}, "stream must be a bool, got 1"),
        ({"prompt_token_ids": [1]}, "give either prompts or prompt_token_ids, got both"),
    ],
)
@pytest.mark.filterwarnings("ignore:prompt_token_ids is deprecated:DeprecationWarning")
def test_wrong_option(options, message):
    llm = make_llm()
    with pytest.raises(ValidationError, match=message):
        llm.generate(["a", "bc"], **({"use_tqdm": False} | options))
    assert num_unfinished(llm) == 0


def test_unknown_keyword():
    with pytest.raises(TypeError, match="sampling"):
        make_llm().generate("a", sampling=1)  # type: ignore[call-overload]


def test_missing_prompts():
    with pytest.raises(TypeError, match="missing 1 required argument: 'prompts'"):
        make_llm().generate()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"stop": "x"}, "stop needs a tokenizer: skip_tokenizer_init must be False"),
        ({"bad_words": ["x"]}, "bad_words needs a tokenizer: skip_tokenizer_init must be False"),
    ],
)
def test_strings_without_tokenizer(params, message):
    with pytest.raises(ValidationError, match=message):
        make_llm(skip_tokenizer_init=True).generate([1], SamplingParams(**params), use_tqdm=False)


def test_text_without_tokenizer():
    with pytest.raises(ValidationError, match="prompts must be token ids, as skip_tokenizer_init is True; got a text"):
        make_llm(skip_tokenizer_init=True).generate("a", use_tqdm=False)


def test_too_many_bad_words():
    with pytest.raises(ValidationError, match="at most 128"):
        make_llm().generate("a", SamplingParams(bad_words=[f"w{index}" for index in range(100)]), use_tqdm=False)


def test_logit_edits_count_the_models_eos():
    params = SamplingParams(logit_bias=dict.fromkeys(range(258), 1.0), bad_words=["a", "b"], min_tokens=1)
    make_llm().generate("a", params, use_tqdm=False)
    many = params.clone(stop_token_ids=list(range(250)))
    with pytest.raises(ValidationError, match="must together have at most 512 entries, got 513"):
        make_llm().generate("a", many, use_tqdm=False)


def test_a_failure_while_adding_ends_those_already_added(monkeypatch):
    llm = make_llm()
    engine = llm._built.engine
    add_request, added = engine.add_request, list[str]()

    def add(request):
        if len(added) == 3:
            raise ValidationError("no more")
        added.append(request.request_id)
        add_request(request)

    monkeypatch.setattr(engine, "add_request", add)
    with pytest.raises(ValidationError, match="no more"):
        llm.generate(["a", "b"], SamplingParams(n=2), use_tqdm=False)
    assert added == ["0-0", "0-1", "1-0"]
    assert num_unfinished(llm) == 0
    monkeypatch.undo()
    assert texts(llm.generate("ab", use_tqdm=False)) == ["ab"]


NOT_NUMBERS = st.sampled_from([float("nan"), float("inf"), -5, "1", None, [], {}, object(), 1j, b"1", True])
NOT_COUNTS = st.one_of(NOT_NUMBERS, st.floats(), st.integers(max_value=-2))
WRONG_PROMPTS = st.one_of(
    st.sampled_from([["ab", ""], [[]], 5, None, b"ab", {}, {"prompt": None}, {"prompt": 3}, object(), 1.5, True]),
    st.text("ab", min_size=64, max_size=200),
    st.lists(st.integers(min_value=258), min_size=1, max_size=5),
    st.lists(st.integers(max_value=-1), min_size=1, max_size=5),
    st.lists(st.floats(), min_size=1, max_size=3),
    st.lists(st.integers(0, 257), min_size=64, max_size=70),
    st.tuples(st.text("ab", min_size=1), st.sampled_from(["", None, 5, [], ["a"], {}, [300]])).map(list),
    st.dictionaries(st.text("xyz", min_size=1, max_size=3), st.integers(), min_size=1, max_size=2),
)


def wrong_params(names: list[str], values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(st.sampled_from(names), values).map(lambda pair: dict([pair]))


WRONG_PARAMS = st.one_of(
    wrong_params(["temperature", "top_p", "min_p", "presence_penalty", "repetition_penalty"], NOT_NUMBERS),
    wrong_params(["temperature", "top_p", "min_p", "frequency_penalty"], st.floats(min_value=2.1)),
    wrong_params(["top_k", "n", "min_tokens"], NOT_COUNTS),
    wrong_params(["ignore_eos", "detokenize", "skip_special_tokens"], st.integers()),
    wrong_params(["stop_token_ids", "allowed_token_ids"], st.lists(st.integers(258), min_size=1)),
    wrong_params(["stop", "bad_words"], st.lists(st.integers(), min_size=1)),
    st.dictionaries(st.integers(258), st.floats(-100, 100), min_size=1).map(lambda bias: {"logit_bias": bias}),
    st.text("pqr", min_size=4, max_size=6).map(lambda name: {name: 1}),
)
WRONG_INPUTS = st.one_of(
    st.tuples(WRONG_PROMPTS, st.just({})),
    st.tuples(st.just("ab"), WRONG_PARAMS),
    st.tuples(WRONG_PROMPTS, WRONG_PARAMS),
)


def test_a_right_input_after_300_wrong_ones():
    llm = make_llm(runner=ScriptedRunner({"ab": "fine"}))
    num_refused = 0

    @settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(wrong=WRONG_INPUTS)
    def send(wrong: tuple[Any, dict[str, Any]]) -> None:
        nonlocal num_refused
        prompts, params = wrong
        with pytest.raises((ValueError, TypeError)) as caught:
            llm.generate(prompts, SamplingParams(**params), use_tqdm=False)
        assert len(str(caught.value)) > 10
        assert num_unfinished(llm) == 0
        num_refused += 1

    send()
    assert num_refused >= 300
    assert texts(llm.generate(["ab", ids("ab")], use_tqdm=False)) == ["fine", "fine"]
