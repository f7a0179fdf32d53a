"""AsyncJaxLLM.beam_search: its result, and how it ends."""

from __future__ import annotations

import asyncio
import time

import pytest

from jaxllm import BeamSearchParams, SamplingParams
from jaxllm.errors import EngineDeadError, ValidationError
from tests.frontend.async_helpers import collect, run
from tests.frontend.helpers import ScriptedRunner, ids, make_async_llm, make_llm

PARAMS = BeamSearchParams(beam_width=2, max_tokens=3)


def test_the_result_is_that_of_the_offline_search():
    llm = make_async_llm({"ab": "xyz"})
    output = run(llm.beam_search("ab", PARAMS), llm)
    (expected,) = make_llm({"ab": "xyz"}).beam_search("ab", PARAMS)
    assert output.sequences == expected.sequences
    assert (output.request_id, output.prompt, output.finished) == ("0", "ab", True)


def test_searches_and_requests_at_once():
    async def main(llm):
        searches = [llm.beam_search("ab", PARAMS, f"search {index}") for index in range(20)]
        requests = [collect(llm.generate("cd", SamplingParams(max_tokens=5))) for _ in range(20)]
        outputs = await asyncio.gather(*searches, *requests)
        assert [output.sequences[0].text for output in outputs[:20]] == ["abxyz"] * 20
        assert [output[-1].outputs[0].text for output in outputs[20:]] == ["cd"] * 20
        assert [output.request_id for output in outputs[:20]] == [f"search {index}" for index in range(20)]
        assert llm.num_unfinished == 0

    llm = make_async_llm({"ab": "xyz"})
    run(main(llm), llm)


def test_admission_counts_its_beams():
    async def main(llm):
        task = asyncio.ensure_future(llm.beam_search("ab", PARAMS.clone(beam_width=5)))
        await asyncio.sleep(0)
        assert llm.num_unfinished == 5
        await task
        assert llm.num_unfinished == 0

    llm = make_async_llm()
    run(main(llm), llm)


def test_cancelling_it_aborts_the_search():
    runner = ScriptedRunner({"ab": "x" * 9000}, max_model_len=16384, num_pages=2100)
    runner.on_dispatch = lambda step: time.sleep(0.001)  # the search takes longer than this test may

    async def main(llm):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(llm.beam_search("ab", PARAMS.clone(max_tokens=16000), "it"), 0.05)
        assert await llm.drain(timeout=10)
        metrics = llm.get_metrics()
        assert (metrics.num_running, metrics.num_waiting, metrics.kv_cache_usage) == (0, 0, 0.0)
        assert metrics.finished_by_reason == {"abort": 1}
        assert (await llm.beam_search("ab", PARAMS, "it")).sequences[0].text == "abxxx"

    llm = make_async_llm(runner=runner)
    run(main(llm), llm)


def test_abort_gives_the_bare_prompt():
    runner = ScriptedRunner({"ab": "x" * 9000}, max_model_len=16384, num_pages=2100)
    runner.on_dispatch = lambda step: time.sleep(0.001)

    async def main(llm):
        task = asyncio.ensure_future(llm.beam_search("ab", PARAMS.clone(max_tokens=16000), "it"))
        await asyncio.sleep(0.05)
        await llm.abort("it")
        (sequence,) = (await task).sequences
        assert (sequence.tokens, sequence.finish_reason) == (ids("ab"), "abort")

    llm = make_async_llm(runner=runner)
    run(main(llm), llm)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {}, "prompt must have at least one token"),
        ("a", {"params": SamplingParams()}, "params must be a BeamSearchParams, got SamplingParams"),
        ("a", {"params": BeamSearchParams(9, 1)}, r"beam_width must be at most max_num_seqs \(8\)"),
        ("a", {"priority": 1}, "priority must be 0 unless scheduling_policy is 'priority', got 1"),
        ("a", {"tokenization_kwargs": {"padding": True}}, "padding must be False"),
        ("a", {"request_id": 5}, "request_id must be a string, got 5"),
    ],
)
def test_wrong_call(prompt, options, message):
    llm = make_async_llm()
    with pytest.raises(ValidationError, match=message):
        run(llm.beam_search(prompt, **({"params": PARAMS} | options)), llm)
    assert llm.get_metrics().num_steps == 0


def test_generate_streams_and_so_refuses_a_search():
    llm = make_async_llm()
    with pytest.raises(ValidationError, match="sampling_params must be a SamplingParams where outputs are streamed"):
        run(collect(llm.generate("a", PARAMS)), llm)


def test_a_shut_down_engine_searches_no_more():
    llm = make_async_llm()
    llm.shutdown()
    with pytest.raises(EngineDeadError, match="the engine was shut down"):
        run(llm.beam_search("a", PARAMS))
