"""Deltas that nobody read yet become one."""

from __future__ import annotations

from jaxllm.frontend.output_merge import merge_deltas
from jaxllm.outputs import CompletionOutput, Logprob, RequestOutput


def make_output(*completions: CompletionOutput, **fields):
    defaults = {"request_id": "0", "prompt": "p", "prompt_token_ids": [1], "finished": False}
    return RequestOutput(outputs=list(completions), **(defaults | fields))


def make_completion(index: int, text: str, token_id: int, **fields):
    return CompletionOutput(index=index, text=text, token_ids=[token_id], **fields)


def test_one_output_stays_as_it_is():
    output = make_output(make_completion(0, "a", 1))
    assert merge_deltas([output]) is output


def test_texts_tokens_and_logprobs_are_appended():
    entries = [{token_id: Logprob(-1.0, 1, "x")} for token_id in (1, 2, 3)]
    outputs = [
        make_output(make_completion(0, text, index + 1, logprobs=[entries[index]], cumulative_logprob=-float(index)))
        for index, text in enumerate("abc")
    ]
    [merged] = merge_deltas(outputs).outputs
    assert (merged.text, merged.token_ids, merged.logprobs) == ("abc", [1, 2, 3], entries)
    assert merged.cumulative_logprob == -2.0
    assert outputs[0].outputs[0].token_ids == [1]


def test_each_completion_keeps_what_was_said_last_of_it():
    merged = merge_deltas(
        [
            make_output(make_completion(1, "x", 7), make_completion(0, "a", 1)),
            make_output(make_completion(1, "y", 8, finish_reason="stop", stop_reason=8)),
            make_output(make_completion(0, "b", 2, finish_reason="length"), finished=True, num_cached_tokens=3),
        ]
    )
    assert [(one.index, one.text, one.token_ids, one.finish_reason, one.stop_reason) for one in merged.outputs] == [
        (0, "ab", [1, 2], "length", None),
        (1, "xy", [7, 8], "stop", 8),
    ]
    assert merged.finished
    assert merged.num_cached_tokens == 3


def test_prompt_logprobs_are_appended():
    first = make_output(make_completion(0, "a", 1), prompt_logprobs=[None, {1: Logprob(-1.0)}])
    second = make_output(make_completion(0, "b", 2), prompt_logprobs=[])
    assert merge_deltas([first, second]).prompt_logprobs == [None, {1: Logprob(-1.0)}]
