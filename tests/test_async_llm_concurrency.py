"""AsyncJaxLLM: many requests, readers and event loops at once."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from jaxllm.errors import ValidationError
from jaxllm.inputs import TokenizationOptions
from tests.frontend.async_helpers import CUMULATIVE, DELTA, FINAL_ONLY, collect, next_behind, run, until
from tests.frontend.helpers import EOS, Gate, ScriptedRunner, ids, make_async_llm


def test_two_thousand_requests_at_once():
    prompts = [f"p{index}" for index in range(2000)]

    async def answer(llm, prompt):
        return "".join([output.outputs[0].text async for output in llm.generate(prompt, DELTA)])

    async def main(llm):
        assert await asyncio.gather(*(answer(llm, prompt) for prompt in prompts)) == prompts
        assert (llm.num_unfinished, llm.num_unfinished_tokens) == (0, 0)

    llm = make_async_llm(runner=ScriptedRunner(max_num_seqs=256, max_num_batched_tokens=1024, num_pages=1025))
    run(main(llm), llm)


def test_several_event_loops_share_the_engine():
    llm = make_async_llm()
    results = {}

    async def main(name):
        answers = await asyncio.gather(*(collect(llm.generate(name * length, CUMULATIVE)) for length in (1, 5, 9)))
        results[name] = [outputs[-1].outputs[0].text for outputs in answers]

    threads = [threading.Thread(target=run, args=(main(name),)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    llm.shutdown()
    assert results == {name: [name, name * 5, name * 9] for name in "abcd"}


def test_the_event_loop_goes_on_while_a_step_runs():
    gate = Gate()

    async def main(llm):
        first = asyncio.ensure_future(collect(llm.generate("abc", CUMULATIVE)))
        await asyncio.to_thread(gate.wait_for_step)
        second = asyncio.ensure_future(collect(llm.generate("xyz", CUMULATIVE)))
        third = asyncio.ensure_future(collect(llm.generate("gone", CUMULATIVE)))
        assert await llm.tokenize("four", TokenizationOptions()) == ids("four")
        await llm.abort("nobody")
        third.cancel()
        assert llm.get_metrics().num_running == 1
        assert not await llm.drain(timeout=0.01)
        assert len(gate.steps) == 1
        gate.open()
        assert [(await task)[-1].outputs[0].text for task in (first, second)] == ["abc", "xyz"]

    llm = make_async_llm(runner=ScriptedRunner(on_dispatch=gate))
    run(main(llm), llm)


async def read_slowly(llm, gate, params):
    """The first output, and the one that is there when all steps are done before the second is asked for."""
    outputs = llm.generate("abcdefgh", params)
    first = await next_behind(gate, outputs, num_steps=2)
    gate.open()
    while llm.num_unfinished:
        time.sleep(0.001)  # the event loop stands still meanwhile
    second = await anext(outputs)
    assert second.finished
    assert [output async for output in outputs] == []
    return first, second


def test_a_slow_reader_of_deltas_finds_all_that_came_in_one():
    gate = Gate()
    llm = make_async_llm(runner=ScriptedRunner(on_dispatch=gate))
    params = DELTA.clone(logprobs=0, prompt_logprobs=0, n=2, temperature=1.0)
    first, second = run(read_slowly(llm, gate, params), llm)
    assert [completion.index for completion in second.outputs] == [0, 1]
    assert len(first.prompt_logprobs) + len(second.prompt_logprobs) == 8
    parts = [*(one for one in first.outputs if one.index == 0), second.outputs[0]]
    assert "".join(part.text for part in parts) == "abcdefgh"
    assert [token for part in parts for token in part.token_ids] == [*ids("abcdefgh"), EOS]
    assert [next(iter(entry)) for part in parts for entry in part.logprobs] == [*ids("abcdefgh"), EOS]
    assert parts[-1].finish_reason == "stop"


def test_a_slow_reader_of_cumulative_outputs_finds_the_newest():
    gate = Gate()
    llm = make_async_llm(runner=ScriptedRunner(on_dispatch=gate))
    first, second = run(read_slowly(llm, gate, CUMULATIVE), llm)
    assert first.outputs[0].text == "a"
    assert second.outputs[0].token_ids == [*ids("abcdefgh"), EOS]


def test_priority():
    gate = Gate()

    async def main(llm):
        first = asyncio.ensure_future(collect(llm.generate("first", FINAL_ONLY)))
        await asyncio.to_thread(gate.wait_for_step)
        late = asyncio.ensure_future(collect(llm.generate("late", FINAL_ONLY, priority=5)))
        await until(lambda: llm.num_unfinished_tokens == len("first" + "late"))
        early = asyncio.ensure_future(collect(llm.generate("early", FINAL_ONLY, priority=-5)))
        await until(lambda: llm.num_unfinished_tokens == len("first" + "late" + "early"))
        gate.open()
        await asyncio.gather(first, late, early)
        served = list(dict.fromkeys(request.request_id for step in gate.steps for request in step.requests))
        assert served == ["0", "2", "1"]

    llm = make_async_llm(runner=ScriptedRunner(on_dispatch=gate, max_num_seqs=1), scheduling_policy="priority")
    run(main(llm), llm)


def test_admission_counts_requests_and_prompt_tokens():
    gate = Gate()

    async def main(llm):
        tasks = [
            asyncio.ensure_future(collect(llm.generate("abc", CUMULATIVE))),
            asyncio.ensure_future(collect(llm.generate("abcde", CUMULATIVE.clone(n=2)))),
        ]
        await until(lambda: llm.num_unfinished_tokens == 8)
        assert llm.num_unfinished == 3
        assert not await llm.drain(timeout=0.01)
        gate.open()
        assert await llm.drain()
        assert (llm.num_unfinished, llm.num_unfinished_tokens) == (0, 0)
        await asyncio.gather(*tasks)

    llm = make_async_llm(runner=ScriptedRunner(on_dispatch=gate))
    run(main(llm), llm)


def test_reset_prefix_cache():
    gate = Gate()

    async def main(llm):
        task = asyncio.ensure_future(collect(llm.generate("a" * 20, FINAL_ONLY)))
        await asyncio.to_thread(gate.wait_for_step)
        refused = asyncio.ensure_future(llm.reset_prefix_cache())
        await asyncio.sleep(0.01)
        forced = asyncio.ensure_future(llm.reset_prefix_cache(reset_running_requests=True))
        await asyncio.sleep(0.01)
        gate.open()
        assert (await refused, await forced) == (False, True)
        assert (await task)[0].outputs[0].text == "a" * 20
        assert llm.get_metrics().num_preemptions == 1
        assert await llm.reset_prefix_cache()
        with pytest.raises(ValidationError, match="reset_connector must be False"):
            await llm.reset_prefix_cache(reset_connector=True)

    llm = make_async_llm(runner=ScriptedRunner(on_dispatch=gate))
    run(main(llm), llm)
