"""JaxLLM.generate(stream=True): what each output holds, who else runs meanwhile, and how it ends."""

from __future__ import annotations

import itertools
import signal
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.errors import EngineDeadError, ValidationError
from jaxllm.sampling_params import RequestOutputKind, SamplingParams
from tests.frontend.helpers import EOS, ScriptedRunner, ids, make_llm, texts

DELTA = RequestOutputKind.DELTA


def stream(llm, prompts, **params):
    return llm.generate(prompts, SamplingParams(**({"max_tokens": 30} | params)), stream=True)


def num_unfinished(llm):
    metrics = llm.get_metrics()
    return metrics.num_running + metrics.num_waiting


def test_cumulative_outputs_grow():
    outputs = list(stream(make_llm(), "abc"))
    assert texts(outputs) == ["a", "ab", "abc", "abc"]
    assert [output.outputs[0].token_ids for output in outputs][-1] == [*ids("abc"), EOS]
    assert [output.finished for output in outputs] == [False, False, False, True]


def test_delta_outputs_add_up():
    outputs = list(stream(make_llm(), "abc", output_kind=DELTA, logprobs=0, prompt_logprobs=0))
    assert texts(outputs) == ["a", "b", "c", ""]
    assert [output.outputs[0].token_ids for output in outputs] == [*([token] for token in ids("abc")), [EOS]]
    assert [len(output.outputs[0].logprobs) for output in outputs] == [1, 1, 1, 1]
    assert [len(output.prompt_logprobs) for output in outputs] == [3, 0, 0, 0]
    assert [output.outputs[0].cumulative_logprob for output in outputs] == [-1.5, -3.0, -4.5, -6.0]


def test_final_only_gives_each_prompt_once_when_it_ends():
    outputs = list(stream(make_llm(), ["abcd", "a"], output_kind=RequestOutputKind.FINAL_ONLY))
    assert [(output.request_id, output.outputs[0].text) for output in outputs] == [("1", "a"), ("0", "abcd")]


def test_several_completions():
    llm = make_llm({"x": "SEED"})
    final = list(stream(llm, "x", n=2, seed=5))[-1]
    assert texts([final]) == texts(llm.generate("x", SamplingParams(n=2, seed=5), use_tqdm=False))
    parts = {0: "", 1: ""}
    for output in stream(llm, "x", n=2, seed=5, output_kind=DELTA):
        for completion in output.outputs:
            parts[completion.index] += completion.text
    assert list(parts.values()) == texts([final])


def test_what_may_begin_a_stop_string_is_held_back():
    outputs = list(stream(make_llm({"x": "abSTARSTOPcd"}), "x", stop="STOP", output_kind=DELTA))
    assert "".join(texts(outputs)) == "abSTAR"
    assert outputs[-1].outputs[0].stop_reason == "STOP"


def test_characters_of_several_tokens_come_whole():
    outputs = list(stream(make_llm({"x": "é€😀"}), "x", output_kind=DELTA))
    assert [text for text in texts(outputs) if text] == ["é", "€", "😀"]


def test_stream_interval_gathers_tokens():
    shown = texts(stream(make_llm(), "abcdefgh", stream_interval=3))
    assert shown == ["a", "abcd", "abcdefg", "abcdefgh"]
    assert texts(stream(make_llm(stream_interval=3), "abcdefgh", stream_interval=2)) == shown


@settings(max_examples=40, deadline=None)
@given(
    reply=st.text(alphabet="abé😀S<", max_size=20),
    stop=st.lists(st.text(alphabet="abéS", min_size=1, max_size=3), max_size=2),
    interval=st.integers(1, 4),
    include=st.booleans(),
    min_tokens=st.integers(0, 5),
)
def test_deltas_add_up_to_the_final_text(reply, stop, interval, include, min_tokens):
    llm = make_llm({"x": reply})
    params = SamplingParams(
        stop=stop, max_tokens=60, stream_interval=interval, include_stop_str_in_output=include, min_tokens=min_tokens
    )
    final = llm.generate("x", params, use_tqdm=False)[0].outputs[0]
    deltas = [output.outputs[0] for output in llm.generate("x", params.clone(output_kind=DELTA), stream=True)]
    cumulative = [output.outputs[0] for output in llm.generate("x", params, stream=True)]
    assert "".join(delta.text for delta in deltas) == final.text
    assert [token for delta in deltas for token in delta.token_ids] == final.token_ids
    assert all(after.text.startswith(before.text) for before, after in itertools.pairwise(cumulative))
    assert cumulative[-1] == final


def test_closing_aborts_what_still_runs():
    llm = make_llm()
    outputs = stream(llm, ["abcdef", "ghijkl"])
    next(outputs)
    assert num_unfinished(llm) == 2
    outputs.close()
    assert num_unfinished(llm) == 0
    assert texts(llm.generate("abc", SamplingParams(), use_tqdm=False)) == ["abc"]


def test_a_stream_that_nobody_reads_starts_nothing():
    llm = make_llm()
    stream(llm, "abc")
    assert num_unfinished(llm) == 0


def test_wrong_input_is_refused_before_the_first_output_is_asked_for():
    with pytest.raises(ValidationError, match=r"prompts\[1\] must have at least one token, got an empty prompt"):
        stream(make_llm(), ["abc", []])


def test_other_calls_run_while_a_stream_is_open():
    llm = make_llm()
    outputs = stream(llm, "abcdef", output_kind=DELTA)
    seen = texts([next(outputs)])
    assert texts(llm.generate("xy", SamplingParams(), use_tqdm=False)) == ["xy"]
    assert "".join(seen + texts(outputs)) == "abcdef"


def test_two_streams_interleave():
    llm = make_llm()
    first, second = stream(llm, "abc"), stream(llm, "xyz")
    assert [texts(pair) for pair in zip(first, second, strict=True)][-1] == ["abc", "xyz"]


def test_abort_ends_one_request_with_a_last_output():
    llm = make_llm()
    last = {}
    for output in stream(llm, ["abcdef", "uvwxyz"]):
        last[output.request_id] = output
        if output.request_id == "0" and output.outputs[0].text == "ab":
            llm.abort("0")
    assert last["0"].outputs[0].finish_reason == "abort"
    assert last["0"].finished
    assert texts([last["1"]]) == ["uvwxyz"]


def test_abort_ignores_unknown_ids():
    make_llm().abort(["7", "x"])


def test_threads_share_the_engine():
    llm = make_llm()
    results = {}

    def work(name):
        results[name] = texts(llm.generate([name * 3, name * 9], SamplingParams(), use_tqdm=False))

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {name: [name * 3, name * 9] for name in "abcd"}


@pytest.mark.parametrize("is_streaming", [False, True])
def test_ctrl_c_aborts_the_call_and_the_engine_goes_on(is_streaming):
    runner = ScriptedRunner()
    llm = make_llm(runner=runner)

    def interrupt(step):
        if step.step_id == 3:
            signal.raise_signal(signal.SIGINT)

    runner.on_dispatch = interrupt
    with pytest.raises(KeyboardInterrupt):
        list(llm.generate(["abcdef"] * 20, SamplingParams(), use_tqdm=False, stream=is_streaming))
    assert num_unfinished(llm) == 0
    assert texts(llm.generate(["abc", "x"], SamplingParams(), use_tqdm=False)) == ["abc", "x"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_ctrl_c_goes_through_at_once():
    runner = ScriptedRunner()
    llm = make_llm(runner=runner)
    reached = []

    def interrupt(step):
        signal.raise_signal(signal.SIGINT)
        reached.append("after the first")
        signal.raise_signal(signal.SIGINT)
        reached.append("after the second")

    runner.on_dispatch = interrupt
    with pytest.raises(KeyboardInterrupt):
        llm.generate("abc", SamplingParams(), use_tqdm=False)
    assert reached == ["after the first"]


def test_a_dead_engine_says_why():
    runner = ScriptedRunner()
    llm = make_llm(runner=runner)

    def fail(step):
        raise RuntimeError("out of memory")

    runner.on_dispatch = fail
    with pytest.raises(EngineDeadError, match="out of memory"):
        llm.generate("abc", SamplingParams(), use_tqdm=False)
    with pytest.raises(EngineDeadError, match="out of memory"):
        llm.generate("abc", SamplingParams(), use_tqdm=False)
