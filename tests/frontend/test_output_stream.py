"""A stream's memory is bounded however slow its reader is."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from jaxllm.errors import EngineDeadError
from jaxllm.frontend.open_requests import OpenRequest
from jaxllm.frontend.output_stream import LoopWaker, OutputStream
from tests.frontend.test_output_merge import make_completion, make_output


def make_stream(loop, *, is_delta=False):
    request = OpenRequest(request_id="0", num_sequences=1)
    return OutputStream(request, LoopWaker(loop), is_delta=is_delta)


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_thousands_of_unread_deltas_are_kept_as_a_few_outputs(loop):
    stream = make_stream(loop, is_delta=True)
    for token_id in range(5000):
        stream.put(make_output(make_completion(0, "x", token_id)))
        assert len(stream._waiting) <= 32
    output = loop.run_until_complete(stream.read())
    assert output.outputs[0].text == "x" * 5000
    assert output.outputs[0].token_ids == list(range(5000))


def test_only_the_newest_cumulative_output_is_kept(loop):
    stream = make_stream(loop)
    for token_id in range(5000):
        stream.put(make_output(make_completion(0, "x", token_id)))
        assert len(stream._waiting) == 1
    assert loop.run_until_complete(stream.read()).outputs[0].token_ids == [4999]


def test_an_error_comes_after_what_still_waits(loop):
    stream = make_stream(loop)
    stream.put(make_output(make_completion(0, "x", 1)))
    stream.fail(EngineDeadError("gone"))
    assert loop.run_until_complete(stream.read()).outputs[0].text == "x"
    with pytest.raises(EngineDeadError, match="gone"):
        loop.run_until_complete(stream.read())


def test_readers_of_one_loop_are_woken_by_one_call(monkeypatch):
    async def main():
        loop = asyncio.get_running_loop()
        waker = LoopWaker(loop)
        streams = [OutputStream(OpenRequest(request_id="0", num_sequences=1), waker, is_delta=True) for _ in range(9)]
        reading = [asyncio.ensure_future(stream.read()) for stream in streams]
        await asyncio.sleep(0)
        calls, call_soon = [], loop.call_soon_threadsafe

        def count(callback):
            calls.append(callback)
            return call_soon(callback)

        monkeypatch.setattr(loop, "call_soon_threadsafe", count)
        for _ in range(3):
            for stream in streams:
                stream.put(make_output(make_completion(0, "x", 1)))
            assert waker.wake(set(streams))
        assert len(calls) == 1
        assert [output.outputs[0].text for output in await asyncio.gather(*reading)] == ["xxx"] * 9

    asyncio.run(main())


def test_a_closed_loop_is_noticed(loop):
    stream = make_stream(loop)
    loop.close()
    assert not stream.waker.wake({stream})
    assert not stream.waker.wake({stream})


def test_a_waker_does_not_keep_its_loop():
    loop = asyncio.new_event_loop()
    waker, alive = LoopWaker(loop), weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert alive() is None
    assert not waker.wake(set())
