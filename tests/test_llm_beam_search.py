"""JaxLLM.beam_search, and generate with BeamSearchParams: what comes back, and what is refused."""

from __future__ import annotations

import logging
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from jaxllm import LLM, BeamSearchOutput, BeamSearchParams, BeamSearchSequence, SamplingParams
from jaxllm.errors import ValidationError
from jaxllm.outputs import Logprob
from tests.frontend.helpers import EOS, ScriptedRunner, ids, make_llm, texts

HELLO = [{"role": "user", "content": "hi"}]


def num_unfinished(llm):
    metrics = llm.get_metrics()
    return metrics.num_running + metrics.num_waiting


def search(llm, prompt="ab", **params):
    """The sequences of one search."""
    (output,) = llm.beam_search(prompt, BeamSearchParams(**({"beam_width": 2, "max_tokens": 2} | params)))
    return output.sequences


def test_sequences_hold_prompt_and_generation():
    llm = make_llm({"ab": "xyz"})
    (output,) = llm.beam_search(["ab"], BeamSearchParams(beam_width=2, max_tokens=2))
    assert isinstance(output, BeamSearchOutput)
    assert (output.prompt, output.prompt_token_ids, output.finished) == ("ab", ids("ab"), True)
    best = output.sequences[0]
    assert isinstance(best, BeamSearchSequence)
    assert [one.tokens for one in output.sequences] == [ids("abxy"), ids("abxA")]
    assert [one.text for one in output.sequences] == ["abxy", "abxA"]
    assert [one.cum_logprob for one in output.sequences] == [-1.0, -2.0]
    assert best.orig_prompt == {"prompt": "ab", "prompt_token_ids": ids("ab")}
    assert (best.finish_reason, best.stop_reason, best.lora_request) == (None, None, None)


def test_logprobs_are_what_each_position_considered():
    best, second = search(make_llm({"ab": "xyz"}))
    a, b, c = ids("ABC")
    x, y = ids("xy")
    assert best.logprobs == [
        {x: Logprob(-0.5, 1, "x"), a: Logprob(-1.5, 2, "A"), b: Logprob(-2.5, 3, "B"), c: Logprob(-3.5, 4, "C")},
        {y: Logprob(-0.5, 1, "y"), a: Logprob(-1.5, 2, "A"), b: Logprob(-2.5, 3, "B"), c: Logprob(-3.5, 4, "C")},
    ]
    assert list(best.logprobs[0]) == [x, a, b, c]
    assert second.logprobs[0] is best.logprobs[0]


def test_completions_are_the_generated_part():
    best, second = search(make_llm({"ab": "xyz"}))
    completion = best.completion
    assert (completion.index, completion.text, completion.token_ids) == (0, "xy", ids("xy"))
    assert (completion.cumulative_logprob, completion.logprobs) == (-1.0, best.logprobs)
    assert (completion.finish_reason, completion.stop_reason) == ("length", None)
    assert second.completion.index == 1


def test_eos_ends_a_beam_and_stays_out_of_its_text():
    best = search(make_llm({"ab": "x"}), max_tokens=5)[0]
    assert best.tokens == [*ids("abx"), EOS]
    assert (best.text, best.completion.text) == ("abx", "x")
    assert (best.completion.finish_reason, best.completion.stop_reason) == ("stop", None)
    assert best.finish_reason is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"include_stop_str_in_output": True, "skip_special_tokens": False}, "abx<eos>"),
        ({"include_stop_str_in_output": True}, "abx"),
        ({"skip_special_tokens": False}, "abx"),
    ],
)
def test_eos_is_shown_where_it_was_asked_for(options, text):
    best = search(make_llm({"ab": "x"}), max_tokens=5, **options)[0]
    assert (best.text, best.completion.text) == (text, text[2:])


def test_eos_may_be_ignored():
    best = search(make_llm({"ab": "x"}), max_tokens=3, ignore_eos=True, skip_special_tokens=False)[0]
    assert (best.text, best.completion.finish_reason) == ("abx<eos><eos>", "length")


def test_every_eos_of_the_model_ends_a_beam():
    llm = make_llm({"ab": "xyz"}, eos_token_ids=(EOS, ids("y")[0]))
    assert search(llm, max_tokens=5)[0].tokens == ids("abxy")


@pytest.mark.parametrize(("length_penalty", "text"), [(1.0, "abx"), (3.0, "abxAA")])
def test_length_penalty_weighs_short_against_long(length_penalty, text):
    """With its EOS "x" has -1.0 of 2 tokens, and "xAA" -4.0 of 4."""
    best = search(make_llm({"ab": "x"}), max_tokens=4, length_penalty=length_penalty)[0]
    assert best.text == text


def test_allowed_tokens():
    allowed = ids("BD")
    best, second = search(make_llm({"ab": "xyz"}), max_tokens=1, allowed_token_ids=allowed)
    assert [best.text, second.text] == ["abB", "abD"]
    assert {token: entry.rank for token, entry in best.logprobs[0].items()} == dict(zip(allowed, (3, 5), strict=True))


def test_the_search_ends_at_the_length_of_the_model():
    llm = make_llm({"a" * 60: "xyzxyz"})
    assert [len(one.tokens) for one in search(llm, "a" * 60, max_tokens=50)] == [64, 64]


@pytest.mark.parametrize("prompt", ["ab", {"prompt": "ab"}, ids("ab"), {"prompt_token_ids": ids("ab")}])
def test_prompt_forms(prompt):
    assert [one.text for one in search(make_llm({"ab": "xy"}), prompt)] == ["abxy", "abxA"]


def test_a_prompt_of_ids_has_no_text():
    llm = make_llm({"ab": "xy"})
    (output,) = llm.beam_search([ids("ab")], BeamSearchParams(1, 1))
    assert output.prompt is None
    assert output.sequences[0].orig_prompt == {"prompt_token_ids": ids("ab")}


def test_outputs_come_in_the_order_of_the_prompts():
    llm = make_llm({"a": "x", "b": "yyyyyy"})
    outputs = llm.beam_search(["b", "a", "b"], BeamSearchParams(beam_width=3, max_tokens=6))
    assert [output.prompt for output in outputs] == ["b", "a", "b"]
    assert [output.sequences[0].text for output in outputs] == ["byyyyyy", "ax", "byyyyyy"]
    assert llm.beam_search([], BeamSearchParams(2, 2)) == []


def test_without_a_tokenizer_texts_are_empty():
    best = search(make_llm({"ab": "xy"}, skip_tokenizer_init=True), ids("ab"))[0]
    assert (best.text, best.completion.text, best.tokens) == ("", "", ids("abxy"))
    assert best.logprobs[0][ids("x")[0]] == Logprob(-0.5, 1, None)


def test_generate_with_beam_search_params():
    """As the documentation of vLLM prints it, width 5 and 50 tokens."""
    llm = make_llm({"Hello, my name is": " Alice"})
    assert isinstance(llm, LLM)
    params = BeamSearchParams(beam_width=5, max_tokens=50)
    outputs = llm.generate("Hello, my name is", params, use_tqdm=False)
    for output in outputs:
        assert (output.prompt, output.outputs[0].text) == ("Hello, my name is", " Alice")
    assert [completion.index for completion in outputs[0].outputs] == [0, 1, 2, 3, 4]
    assert outputs[0].finished


def test_searches_beside_sampled_requests():
    llm = make_llm({"a": "xy", "b": "z"})
    params = [BeamSearchParams(2, 2), SamplingParams(max_tokens=5), BeamSearchParams(1, 1)]
    outputs = llm.generate(["a", "b", "b"], params, use_tqdm=False)
    assert [[one.text for one in output.outputs] for output in outputs] == [["xy", "xA"], ["z"], ["z"]]
    assert [output.request_id for output in outputs] == ["0", "1", "2"]


def test_chat_with_beam_search_params():
    llm = make_llm({"<user>hi<assistant>": "hey"})
    (output,) = llm.chat(HELLO, BeamSearchParams(2, 3), use_tqdm=False)
    assert texts([output])[0] == "hey"


def test_enqueued_searches():
    llm = make_llm({"a": "xy"})
    llm.enqueue("a", BeamSearchParams(2, 2), use_tqdm=False)
    assert texts(llm.wait_for_completion(use_tqdm=False)) == ["xy", "xA"]


def test_concurrency_limit_runs_so_many_prompts_at_once(caplog):
    running = []
    runner = ScriptedRunner(on_dispatch=lambda step: running.append({r.request_id for r in step.requests}))
    llm = make_llm(runner=runner)
    bars: list[object] = []
    with caplog.at_level(logging.WARNING):
        outputs = llm.beam_search(["abc"] * 5, BeamSearchParams(2, 3), use_tqdm=bars.append, concurrency_limit=2)
    assert [output.request_id for output in outputs] == ["0", "1", "2", "3", "4"]
    assert max(map(len, running)) == 2
    assert set().union(*running[-3:]) == {"4"}
    assert bars == []
    assert "no progress bar with concurrency_limit" in caplog.text


def test_a_bar_counts_the_prompts():
    made = []

    def make_bar(total, desc):
        bar = SimpleNamespace(total=total, count=0, close=lambda: None)
        bar.update = lambda count: setattr(bar, "count", bar.count + count)
        made.append(bar)
        return bar

    make_llm().beam_search(["abc", "x"], BeamSearchParams(2, 3), use_tqdm=make_bar)
    assert [(bar.total, bar.count) for bar in made] == [(2, 2)]


def test_priority():
    runner = ScriptedRunner(max_num_seqs=2)
    llm = make_llm(scheduling_policy="priority", runner=runner)
    llm.beam_search(["abc", "xyz"], BeamSearchParams(2, 1), priority=[5, 0])
    assert [start.prompt_token_ids.tolist() for start in runner.starts] == [ids("xyz"), ids("abc")]


def test_metrics():
    llm = make_llm({"ab": "xyz"}, disable_log_stats=False)
    (output,) = llm.beam_search("ab", BeamSearchParams(2, 3))
    metrics = output.metrics
    assert metrics is not None
    times = [metrics.arrival_time, metrics.first_scheduled_time, metrics.first_token_time, metrics.last_token_time]
    assert times == sorted(time for time in times if time is not None)
    assert metrics.finished_time == metrics.last_token_time
    assert (metrics.num_generation_tokens, output.num_cached_tokens) == (6, 0)
    assert make_llm().beam_search("ab", BeamSearchParams(2, 3))[0].metrics is None


def test_listeners_hear_of_a_finished_search():
    llm = make_llm({"ab": "x"})
    finished: list[Any] = []
    llm._frontend.listeners.append(SimpleNamespace(on_step=lambda stats: None, on_finished=finished.append))
    search(llm, max_tokens=2)
    (stats,) = finished
    assert (stats.n, stats.max_tokens, stats.num_prompt_tokens, stats.num_generation_tokens) == (2, 2, 2, 4)
    assert stats.finish_reasons == ("stop", "stop")


def test_an_aborted_search_gives_the_bare_prompt():
    runner = ScriptedRunner()
    llm = make_llm(runner=runner)

    def abort(step):
        if step.step_id == 2:
            llm.abort("0")

    runner.on_dispatch = abort
    (output,) = llm.beam_search("abcdef", BeamSearchParams(2, 6))
    (sequence,) = output.sequences
    assert (sequence.text, sequence.tokens, sequence.logprobs) == ("abcdef", ids("abcdef"), [])
    assert (sequence.finish_reason, sequence.completion.finish_reason) == ("abort", "abort")
    assert num_unfinished(llm) == 0
    assert llm.get_metrics().kv_cache_usage == 0


def test_an_interrupted_search_leaves_nothing_behind():
    def interrupt(step):
        if step.step_id == 2:
            signal.raise_signal(signal.SIGINT)

    llm = make_llm(runner=ScriptedRunner(on_dispatch=interrupt))
    with pytest.raises(KeyboardInterrupt):
        llm.beam_search("abcdef", BeamSearchParams(2, 6))
    assert num_unfinished(llm) == 0


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (["a", ""], {}, r"prompts\[1\] must have at least one token, got an empty prompt"),
        ("a" * 64, {}, "prompt must have at most 63 tokens"),
        ({"prompt_embeds": [1.0]}, {}, "prompts: prompt_embeds is not supported yet"),
        ("a", {"params": SamplingParams()}, "params must be a BeamSearchParams, got SamplingParams"),
        ("a", {"params": [BeamSearchParams(2, 2)]}, r"params must be a BeamSearchParams, got \[BeamSearchParams"),
        ("a", {"params": BeamSearchParams(11, 2)}, "beam_width must be at most 10, half of max_logprobs"),
        ("a", {"params": BeamSearchParams(9, 2)}, r"beam_width must be at most max_num_seqs \(8\), .* got 9"),
        (
            ["a", "b" * 40],
            {"params": BeamSearchParams(8, 20), "pages": 17},
            "8 beams of up to 60 tokens, 40 of the prompt included, may need 18 pages of 16 tokens, and the KV cache "
            "has 16: lower beam_width or max_tokens, or raise kv_cache_memory_bytes",
        ),
        ("a", {"eos": tuple(range(9))}, "heeds at most 8 EOS tokens, and the model has 9: ignore_eos must be True"),
        ("a", {"params": BeamSearchParams(2, 2, allowed_token_ids=[258])}, "allowed_token_ids must hold token ids"),
        ("a", {"lora_request": "x"}, "lora_request is not supported yet: leave it at None, got 'x'"),
        ("a", {"concurrency_limit": 0}, "concurrency_limit must be an integer of at least 1, got 0"),
        ("a", {"priority": [1, 2]}, "priority must be one value or one per prompt: got 2 for 1 prompts"),
        ("a", {"priority": 1}, "priority must be 0 unless scheduling_policy is 'priority', got 1"),
        ("a", {"use_tqdm": "yes"}, "use_tqdm must be a bool or a function that makes a bar, got 'yes'"),
    ],
)
def test_wrong_call(prompts, options, message):
    given = {"params": BeamSearchParams(2, 2)} | options
    runner = ScriptedRunner(num_pages=given.pop("pages", 129))
    llm = make_llm(runner=runner, eos_token_ids=given.pop("eos", (EOS,)))
    with pytest.raises(ValidationError, match=message):
        llm.beam_search(prompts, **given)
    assert num_unfinished(llm) == 0
    assert llm.get_metrics().num_steps == 0
    assert texts(llm.generate("abc", use_tqdm=False)) == ["abc"]


def test_a_search_is_not_streamed():
    llm = make_llm()
    with pytest.raises(ValidationError, match="sampling_params must be a SamplingParams where outputs are streamed"):
        llm.generate("a", BeamSearchParams(2, 2), stream=True)


def test_ignored_eos_tokens_may_be_many():
    llm = make_llm(eos_token_ids=tuple(range(9)))
    assert len(search(llm, ignore_eos=True)) == 2
