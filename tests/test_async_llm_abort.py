"""AsyncJaxLLM: requests that end early, because their reader leaves or somebody aborts them."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from tests.frontend.async_helpers import CUMULATIVE, DELTA, FINAL_ONLY, collect, run
from tests.frontend.helpers import Gate, ScriptedRunner, make_async_llm


async def break_out(start):
    async for _ in start():
        break


async def close(start):
    outputs = start()
    await anext(outputs)
    await outputs.aclose()


async def cancel(start):
    task = asyncio.ensure_future(collect(start()))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def time_out(start):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(collect(start()), 0.05)


@pytest.mark.parametrize("leave", [break_out, close, cancel, time_out])
def test_leaving_the_generator_aborts_the_request(leave):
    runner = ScriptedRunner({"abcdef": "x" * 16000}, max_model_len=16384, num_pages=1025)
    runner.on_dispatch = lambda step: time.sleep(0.001)  # the text takes longer than this test may

    async def main(llm):
        await leave(lambda: llm.generate("abcdef", CUMULATIVE.clone(max_tokens=16000), "it"))
        assert await llm.drain(timeout=10)
        metrics = llm.get_metrics()
        assert (metrics.num_running, metrics.num_waiting, metrics.kv_cache_usage) == (0, 0, 0.0)
        assert metrics.finished_by_reason == {"abort": 1}
        assert (await collect(llm.generate("abc", FINAL_ONLY, "it")))[0].outputs[0].text == "abc"

    llm = make_async_llm(runner=runner)
    run(main(llm), llm)


def test_no_step_serves_an_aborted_request():
    gate = Gate()

    async def main(llm):
        gone = asyncio.ensure_future(collect(llm.generate("abcdef", CUMULATIVE)))
        await asyncio.to_thread(gate.wait_for_step)
        gone.cancel()
        stays = asyncio.ensure_future(collect(llm.generate("xyz", CUMULATIVE)))
        await asyncio.sleep(0.05)
        gate.open()
        await stays
        served = [[request.request_id for request in step.requests] for step in gate.steps]
        assert served[0] == ["0"]
        assert all(request_ids == ["1"] for request_ids in served[1:])

    llm = make_async_llm(runner=ScriptedRunner(on_dispatch=gate))
    run(main(llm), llm)


def test_a_request_cancelled_before_it_was_tokenised_never_runs(monkeypatch):
    async def main(llm):
        held = threading.Event()
        monkeypatch.setattr(llm._frontend, "prepare", lambda *_, **__: held.wait(30))
        task = asyncio.ensure_future(collect(llm.generate("abc", CUMULATIVE, "it")))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0)
        held.set()
        assert await llm.drain()
        assert llm.get_metrics().num_steps == 0

    llm = make_async_llm()
    run(main(llm), llm)


def test_a_closed_event_loop_loses_its_requests():
    runner = ScriptedRunner({"abc": "x" * 1000}, max_model_len=1024)
    llm = make_async_llm(runner=runner)
    loop = asyncio.new_event_loop()
    outputs = llm.generate("abc", DELTA.clone(max_tokens=1000))
    loop.run_until_complete(anext(outputs))
    loop.close()
    assert run(llm.drain(30)) is True
    assert llm.get_metrics().finished_by_reason == {"abort": 1}
    llm.shutdown()


def test_abort_ends_requests_with_a_last_output():
    gate = Gate()

    async def main(llm):
        tasks = [asyncio.ensure_future(collect(llm.generate("abcdef", CUMULATIVE, name))) for name in "xyz"]
        await asyncio.to_thread(gate.wait_for_step)
        await llm.abort("x")
        await llm.abort(["y", "unknown"])
        gate.open()
        results = [(await task)[-1] for task in tasks]
        assert [result.outputs[0].finish_reason for result in results] == ["abort", "abort", "stop"]
        assert [result.finished for result in results] == [True, True, True]

    llm = make_async_llm(runner=ScriptedRunner(on_dispatch=gate))
    run(main(llm), llm)


def test_abort_reaches_a_request_that_is_being_tokenised(monkeypatch):
    async def main(llm):
        held, prepare = threading.Event(), llm._frontend.prepare

        def slow(*args: Any, **kwargs: Any) -> Any:
            held.wait(30)
            return prepare(*args, **kwargs)

        monkeypatch.setattr(llm._frontend, "prepare", slow)
        task = asyncio.ensure_future(collect(llm.generate("abc", CUMULATIVE, "it")))
        await asyncio.sleep(0.01)
        await llm.abort("it")
        held.set()
        [output] = await task
        assert (output.outputs[0].finish_reason, output.outputs[0].text) == ("abort", "")

    llm = make_async_llm()
    run(main(llm), llm)
