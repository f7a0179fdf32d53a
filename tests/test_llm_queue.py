"""JaxLLM.enqueue, enqueue_chat and wait_for_completion."""

from __future__ import annotations

import pytest

from jaxllm.errors import EngineDeadError, ValidationError
from jaxllm.outputs import RequestOutput
from jaxllm.sampling_params import SamplingParams
from tests.frontend.helpers import ScriptedRunner, make_llm, texts

HELLO = [{"role": "user", "content": "hi"}]


def num_unfinished(llm):
    metrics = llm.get_metrics()
    return metrics.num_running + metrics.num_waiting


def test_enqueued_requests_run_together_later():
    llm = make_llm({"<user>hi<assistant>": "hello"})
    assert llm.enqueue(["abc", "x"], use_tqdm=False) == ["0", "1"]
    assert llm.enqueue_chat(HELLO, use_tqdm=False) == ["2"]
    assert llm.get_metrics().num_steps == 0
    outputs = llm.wait_for_completion(use_tqdm=False)
    assert texts(outputs) == ["abc", "x", "hello"]
    assert [output.request_id for output in outputs] == ["0", "1", "2"]
    assert llm.wait_for_completion(RequestOutput, use_tqdm=False) == []


def test_params_and_priority_per_prompt():
    runner = ScriptedRunner(max_num_seqs=1)
    llm = make_llm(scheduling_policy="priority", runner=runner)
    params = [SamplingParams(max_tokens=1), SamplingParams(max_tokens=2)]
    llm.enqueue(["abc", "xyz"], params, None, [5, 0], False)
    assert texts(llm.wait_for_completion(use_tqdm=False)) == ["a", "xy"]
    assert [start.sampling_params.max_tokens for start in runner.starts] == [2, 1]


def test_other_calls_go_on_meanwhile():
    llm = make_llm()
    llm.enqueue("a", use_tqdm=False)
    assert texts(llm.generate("abcdef", use_tqdm=False)) == ["abcdef"]
    assert num_unfinished(llm) == 0
    assert texts(llm.wait_for_completion(use_tqdm=False)) == ["a"]


def test_an_aborted_request_is_there_in_its_place():
    llm = make_llm()
    llm.enqueue(["abc", "xyz"], use_tqdm=False)
    llm.abort("0")
    outputs = llm.wait_for_completion(use_tqdm=False)
    assert [output.outputs[0].finish_reason for output in outputs] == ["abort", "stop"]


def test_a_wrong_prompt_enqueues_nothing():
    llm = make_llm()
    with pytest.raises(ValidationError, match=r"prompts\[1\] must have at least one token"):
        llm.enqueue(["abc", ""], use_tqdm=False)
    assert num_unfinished(llm) == 0
    assert llm.wait_for_completion(use_tqdm=False) == []


def test_wrong_options():
    llm = make_llm()
    with pytest.raises(ValidationError, match="output_type must be RequestOutput or None, got"):
        llm.wait_for_completion(dict)
    with pytest.raises(ValidationError, match="lora_request is not supported yet"):
        llm.enqueue("a", lora_request="x")
    with pytest.raises(ValidationError, match="mm_processor_kwargs is not supported yet"):
        llm.enqueue_chat(HELLO, mm_processor_kwargs={})


def test_shutdown_ends_what_was_enqueued():
    llm = make_llm()
    llm.enqueue("a", use_tqdm=False)
    llm.shutdown()
    with pytest.raises(EngineDeadError, match="the engine was shut down"):
        llm.wait_for_completion(use_tqdm=False)


def test_a_wrong_bar_ends_what_was_enqueued():
    llm = make_llm()
    llm.enqueue("abc", use_tqdm=False)
    with pytest.raises(ValidationError, match="use_tqdm must be a bool or a function"):
        llm.wait_for_completion(use_tqdm="yes")
    assert num_unfinished(llm) == 0
