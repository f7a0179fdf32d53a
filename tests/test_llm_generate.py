"""JaxLLM.generate: prompt forms, order, stops, several completions, log-probabilities, defaults."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jaxllm.engine_args import make_engine_config
from jaxllm.errors import EngineDeadError, ValidationError
from jaxllm.frontend.generation_defaults import make_default_sampling_params
from jaxllm.outputs import Logprob
from jaxllm.sampling_params import RequestOutputKind, SamplingParams
from tests.frontend.helpers import END, EOS, ScriptedRunner, ids, make_llm, texts

LONG = SamplingParams(max_tokens=30)


def quiet(llm, prompts, params=LONG, **options):
    return llm.generate(prompts, params, use_tqdm=False, **options)


def runner_of(llm):
    return llm._built.runner


def test_outputs_come_in_the_order_of_the_prompts():
    llm = make_llm({"a": "a long reply", "b": "x", "c": "shorter"})
    outputs = quiet(llm, ["a", "b", "c"])
    assert texts(outputs) == ["a long reply", "x", "shorter"]
    assert [output.request_id for output in outputs] == ["0", "1", "2"]
    assert [output.request_id for output in quiet(llm, "a")] == ["3"]


def test_more_prompts_than_slots_keep_their_order():
    prompts = [f"p{index}" for index in range(40)]
    assert texts(quiet(make_llm(), prompts)) == prompts


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ("ab", [("ab", "ab")]),
        ({"prompt": "ab"}, [("ab", "ab")]),
        (ids("ab"), [(None, "ab")]),
        (tuple(ids("ab")), [(None, "ab")]),
        (np.array(ids("ab"), np.int32), [(None, "ab")]),
        ({"prompt_token_ids": ids("ab")}, [(None, "ab")]),
        ({"prompt_token_ids": ids("ab"), "prompt": "shown"}, [("shown", "ab")]),
        ({"prompt": "ab", "multi_modal_data": None, "cache_salt": "s"}, [("ab", "ab")]),
        ([ids("ab"), ids("c")], [(None, "ab"), (None, "c")]),
        (["ab", {"prompt_token_ids": ids("c")}], [("ab", "ab"), (None, "c")]),
        ([], []),
    ],
)
def test_prompt_forms(prompts, expected):
    outputs = quiet(make_llm(), prompts)
    assert [(output.prompt, output.outputs[0].text) for output in outputs] == expected
    assert [output.prompt_token_ids for output in outputs] == [ids(text) for _, text in expected]


def test_legacy_prompt_token_ids_warn():
    with pytest.warns(DeprecationWarning, match="prompt_token_ids is deprecated") as caught:
        outputs = make_llm().generate(prompt_token_ids=[ids("ab")], sampling_params=LONG, use_tqdm=False)
    assert texts(outputs) == ["ab"]
    assert caught[0].filename == __file__


def test_cache_salt_keeps_prompts_apart():
    llm = make_llm()
    prompt = ids("a" * 40)
    quiet(llm, {"prompt_token_ids": prompt, "cache_salt": "one"})
    other = quiet(llm, {"prompt_token_ids": prompt, "cache_salt": "two"})
    same = quiet(llm, {"prompt_token_ids": prompt, "cache_salt": "two"})
    assert (other[0].num_cached_tokens, same[0].num_cached_tokens) == (0, 32)


def test_prefix_cache_is_not_read_where_asked():
    llm = make_llm()
    prompt = ids("a" * 40)
    quiet(llm, prompt)
    assert quiet(llm, prompt, LONG.clone(skip_reading_prefix_cache=True))[0].num_cached_tokens == 0
    assert quiet(llm, prompt)[0].num_cached_tokens == 32
    assert llm.reset_prefix_cache()
    assert quiet(llm, prompt)[0].num_cached_tokens == 0


def test_params_per_prompt():
    outputs = quiet(make_llm(), ["abcdef", "abcdef"], [SamplingParams(max_tokens=2), SamplingParams(max_tokens=3)])
    assert texts(outputs) == ["ab", "abc"]


def test_eos_ends_and_is_absent_from_the_text():
    completion = quiet(make_llm(), "ab")[0].outputs[0]
    assert (completion.text, completion.token_ids) == ("ab", [*ids("ab"), EOS])
    assert (completion.finish_reason, completion.stop_reason) == ("stop", None)
    assert completion.finished()


def test_length_ends():
    completion = quiet(make_llm(), "abcdef", SamplingParams(max_tokens=3))[0].outputs[0]
    assert (completion.text, completion.finish_reason, completion.stop_reason) == ("abc", "length", None)


def test_max_tokens_none_goes_to_the_models_length():
    llm = make_llm()
    params = SamplingParams(max_tokens=None, ignore_eos=True, min_tokens=100)
    assert len(quiet(llm, "abcd", params)[0].outputs[0].token_ids) == 60


def test_ignore_eos_goes_on():
    completion = quiet(make_llm(), "ab", SamplingParams(max_tokens=5, ignore_eos=True))[0].outputs[0]
    assert completion.token_ids == [*ids("ab"), EOS, EOS, EOS]
    assert completion.finish_reason == "length"


def test_min_tokens_holds_eos_back():
    completion = quiet(make_llm(), "ab", SamplingParams(max_tokens=9, min_tokens=4))[0].outputs[0]
    assert completion.text == "ab.."


@pytest.mark.parametrize(("include", "text"), [(False, "ab"), (True, "abc")])
def test_stop_token_stays_in_the_ids(include, text):
    params = SamplingParams(stop_token_ids=ids("c"), include_stop_str_in_output=include)
    completion = quiet(make_llm(), "abcd", params)[0].outputs[0]
    assert (completion.text, completion.token_ids) == (text, ids("abc"))
    assert (completion.finish_reason, completion.stop_reason) == ("stop", ids("c")[0])


@pytest.mark.parametrize(("include", "text"), [(False, "ab"), (True, "abcd")])
def test_stop_string_cuts_the_text(include, text):
    params = SamplingParams(stop=["zz", "cd"], include_stop_str_in_output=include, max_tokens=30, logprobs=0)
    completion = quiet(make_llm(), "abcdef", params)[0].outputs[0]
    assert (completion.text, completion.token_ids) == (text, ids("abcd"))
    assert (completion.finish_reason, completion.stop_reason) == ("stop", "cd")
    assert len(completion.logprobs) == 4


def test_stop_string_is_not_looked_for_below_min_tokens():
    params = SamplingParams(stop="b", min_tokens=2, max_tokens=30)
    assert texts(quiet(make_llm(), ["abcbd", "abcd"], params)) == ["abc", "abcd"]


def test_stop_string_wins_over_length():
    completion = quiet(make_llm(), "abcd", SamplingParams(stop="bc", max_tokens=3))[0].outputs[0]
    assert (completion.text, completion.finish_reason, completion.stop_reason) == ("a", "stop", "bc")


def test_surplus_token_after_a_stop_string_is_dropped():
    llm = make_llm()
    outputs = quiet(llm, ["abXcd", "abcdefgh"], SamplingParams(stop="X", max_tokens=30))
    assert [output.outputs[0].token_ids for output in outputs] == [ids("abX"), [*ids("abcdefgh"), EOS]]
    assert llm.get_metrics().num_running == 0


def test_detokenize_false_leaves_the_text_empty():
    completion = quiet(make_llm(), "ab", SamplingParams(detokenize=False))[0].outputs[0]
    assert (completion.text, completion.token_ids) == ("", [*ids("ab"), EOS])


@pytest.mark.parametrize(("skip", "text"), [(True, "ab"), (False, "a<end>b")])
def test_special_tokens_in_the_text(skip, text):
    llm = make_llm({"x": "a<end>b"})
    assert texts(quiet(llm, "x", SamplingParams(skip_special_tokens=skip, spaces_between_special_tokens=False))) == [
        text
    ]


def test_several_completions_are_ordered_and_draw_apart():
    llm = make_llm({"x": "SEED"})
    output = quiet(llm, "x", SamplingParams(n=3, seed=5))[0]
    assert [completion.index for completion in output.outputs] == [0, 1, 2]
    assert output.outputs[0].text == "5"
    assert len({completion.text for completion in output.outputs}) == 3
    assert texts(quiet(llm, "x", SamplingParams(n=3, seed=5))) == texts([output])
    assert texts(quiet(llm, "x", SamplingParams(n=1, seed=5))) == ["5"]
    assert output.request_id == "0"


def test_unseeded_draws_follow_the_engines_seed():
    first, second = (quiet(make_llm({"x": "SEED"}, seed=3), ["x", "x"]) for _ in range(2))
    assert texts(first) == texts(second)
    assert len(set(texts(first))) == 2
    assert texts(quiet(make_llm({"x": "SEED"}, seed=4), ["x", "x"])) != texts(first)


def test_logprobs_hold_the_drawn_token_first():
    completion = quiet(make_llm(), "x", SamplingParams(logprobs=2, max_tokens=1))[0].outputs[0]
    assert list(completion.logprobs[0].items()) == [
        (ids("x")[0], Logprob(-1.5, 2, "x")),
        (ids("A")[0], Logprob(-0.5, 1, "A")),
    ]
    assert completion.cumulative_logprob == -1.5


@pytest.mark.parametrize(("count", "tokens"), [(0, "x"), (1, "xA"), (3, "xAB"), (-1, "xABC")])
def test_number_of_logprobs(count, tokens):
    llm = make_llm(max_logprobs=-1)
    completion = quiet(llm, "x", SamplingParams(logprobs=count, max_tokens=1))[0].outputs[0]
    assert list(completion.logprobs[0]) == ids(tokens)


def test_prompt_logprobs_start_with_none():
    output = quiet(make_llm(), "abc", SamplingParams(prompt_logprobs=0, n=2, seed=1, max_tokens=1))[0]
    assert output.prompt_logprobs[0] is None
    assert [list(position) for position in output.prompt_logprobs[1:]] == [ids("b"), ids("c")]
    assert output.outputs[0].logprobs is None
    assert output.outputs[0].cumulative_logprob is None


def test_metrics_only_with_statistics():
    assert quiet(make_llm(), "ab")[0].metrics is None
    metrics = quiet(make_llm(disable_log_stats=False), "ab")[0].metrics
    assert metrics.num_generation_tokens == 3
    assert metrics.arrival_time <= metrics.first_scheduled_time <= metrics.first_token_time <= metrics.last_token_time
    assert metrics.last_token_time <= metrics.finished_time
    assert metrics.time_to_first_token >= 0


def test_priority_goes_first():
    runner = ScriptedRunner(max_num_seqs=1)
    llm = make_llm(runner=runner, scheduling_policy="priority")
    assert texts(quiet(llm, ["aa", "bb", "cc"], priority=[3, 2, 1])) == ["aa", "bb", "cc"]
    assert [chr(start.prompt_token_ids[0] + 33) for start in runner.starts] == ["c", "b", "a"]


def test_generation_config_gives_the_defaults():
    llm = make_llm(generation_config={"temperature": 0.5, "top_k": 7, "max_new_tokens": 3, "top_p": None, "eos": 5})
    params = llm.get_default_sampling_params()
    assert (params.temperature, params.top_k, params.max_tokens, params.top_p) == (0.5, 7, 3, 1.0)
    assert texts(quiet(llm, "abcdef", None)) == ["abc"]
    assert runner_of(llm).starts[-1].sampling_params.temperature == 0.5
    quiet(llm, "abcdef", SamplingParams())
    assert runner_of(llm).starts[-1].sampling_params.temperature == 1.0


@pytest.mark.parametrize(("source", "temperature"), [("auto", 0.5), ("vllm", 1.0)])
def test_generation_config_can_be_turned_off_and_overridden(source, temperature):
    config = make_engine_config("m", generation_config=source, override_generation_config={"top_k": 3})
    params = make_default_sampling_params({"temperature": 0.5, "top_k": 7}, config)
    assert (params.temperature, params.top_k) == (temperature, 3)


def test_wrong_generation_config_names_itself():
    with pytest.raises(ValidationError, match="generation_config or override_generation_config is wrong: temperature"):
        make_llm(generation_config={"temperature": 5.0})


def test_given_params_are_not_changed():
    params = SamplingParams()
    quiet(make_llm(), "ab", params)
    assert params.output_kind is RequestOutputKind.CUMULATIVE


def test_bad_words_reach_the_engine_tokenised():
    llm = make_llm()
    quiet(llm, "ab", SamplingParams(bad_words=["no"]))
    assert runner_of(llm).starts[-1].bad_word_ids == (tuple(ids("no")), tuple(ids(" no")))


def test_all_end_ids_reach_the_device():
    llm = make_llm(eos_token_ids=(EOS, END))
    quiet(llm, "ab", SamplingParams(stop_token_ids=[3]))
    assert runner_of(llm).starts[-1].stop_token_ids == (3, EOS, END)
    quiet(llm, "ab", SamplingParams(stop_token_ids=[3], ignore_eos=True))
    assert runner_of(llm).starts[-1].stop_token_ids == (3,)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"truncate_prompt_tokens": 2}, "ef"),
        ({"truncate_prompt_tokens": 2, "truncation_side": "right"}, "ab"),
        ({"max_length": 3, "truncation": True}, "def"),
        ({"max_length": 9}, "abcdef"),
        ({"add_special_tokens": None}, "abcdef"),
    ],
)
def test_tokenization_kwargs(options, kept):
    assert quiet(make_llm(), "abcdef", tokenization_kwargs=options)[0].prompt_token_ids == ids(kept)


def test_params_can_truncate():
    llm = make_llm()
    assert quiet(llm, "abcdef", SamplingParams(truncate_prompt_tokens=2))[0].prompt_token_ids == ids("ef")
    output = quiet(llm, "a" * 100, SamplingParams(truncate_prompt_tokens=-1, max_tokens=10))[0]
    assert len(output.prompt_token_ids) == 54


def test_without_tokenizer_token_ids_go_in_and_out():
    llm = make_llm(skip_tokenizer_init=True)
    output = quiet(llm, ids("ab"), SamplingParams(logprobs=0))[0]
    assert (output.outputs[0].text, output.outputs[0].token_ids) == ("", [*ids("ab"), EOS])
    assert output.outputs[0].logprobs[0][ids("a")[0]] == Logprob(-1.5, 2, None)


def test_progress_bars(capsys):
    make_llm().generate(["ab", "cd"], LONG)
    shown = capsys.readouterr().err
    assert "Rendering prompts: 100%" in shown
    assert "Processed prompts: 100%" in shown
    assert "est. speed input: " in shown
    assert " toks/s, output: " in shown


def test_progress_bar_of_the_callers_making():
    made = []

    class Bar:
        def __init__(self, **arguments):
            made.append(arguments)
            self.count = 0

        def update(self, count):
            self.count += count

        def close(self):
            made.append(self.count)

    make_llm().generate(["ab", "cd"], LONG, use_tqdm=Bar)
    assert made == [
        {"total": 2, "desc": "Rendering prompts"},
        2,
        {"total": 2, "desc": "Processed prompts"},
        2,
    ]


def test_shutdown_ends_everything():
    with make_llm() as llm:
        quiet(llm, "ab")
    assert runner_of(llm).is_shut_down
    with pytest.raises(EngineDeadError, match="the engine was shut down"):
        quiet(llm, "ab")
    llm.shutdown()


def test_facts_about_the_model():
    llm = make_llm()
    assert (llm.vocab_size, llm.max_model_len) == (258, 64)
    assert llm.startup_seconds == {"config": 1.0, "weights": 2.0, "compile": 3.0}
    assert llm.config.model == "scripted"
    assert repr(llm) == "JaxLLM(model='scripted', dtype='auto', device='auto')"
    assert llm.get_tokenizer().decode(ids("ab")) == "ab"
    assert (llm.get_world_size(), llm.get_world_size(include_dp=False)) == (1, 1)
    llm.save_orbax("there")
    assert llm._built.saved == ["there"]  # type: ignore[attr-defined]


def test_no_tokenizer_to_get():
    with pytest.raises(ValidationError, match="there is no tokenizer: skip_tokenizer_init must be False"):
        make_llm(skip_tokenizer_init=True).get_tokenizer()


def test_cumulative_logprob_sums():
    completion = quiet(make_llm(), "abcd", SamplingParams(logprobs=0))[0].outputs[0]
    assert math.isclose(completion.cumulative_logprob, -7.5)


def test_resetting_the_prefix_cache_spares_running_requests_unless_told():
    llm = make_llm()
    stream = llm.generate("a" * 20, LONG, stream=True)
    next(stream)
    assert not llm.reset_prefix_cache()
    assert llm.reset_prefix_cache(reset_running_requests=True)
    assert llm.get_metrics().kv_cache_usage == 0.0
    assert texts(stream)[-1] == "a" * 20
    assert llm.get_metrics().num_preemptions == 1
    assert llm.reset_prefix_cache()
    with pytest.raises(ValidationError, match="reset_connector must be False: there is no connector"):
        llm.reset_prefix_cache(reset_connector=True)
    with pytest.raises(ValidationError, match="reset_running_requests must be a bool, got 1"):
        llm.reset_prefix_cache(1)
