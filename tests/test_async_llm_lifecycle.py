"""AsyncJaxLLM: what it tells about itself, its health, its death and its end."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from typing import Any

import pytest

from jaxllm.errors import EngineDeadError, EngineStalledError
from tests.frontend.async_helpers import CUMULATIVE, FINAL_ONLY, collect, run, until
from tests.frontend.helpers import Gate, ScriptedRunner, make_async_llm


def test_a_request_that_the_engine_refuses_fails_alone(monkeypatch):
    async def main(llm):
        engine = llm._built.engine
        add_request = engine.add_request

        def add(request):
            if len(request.prompt_token_ids) == 3:
                raise RuntimeError("odd")
            add_request(request)

        monkeypatch.setattr(engine, "add_request", add)
        odd, even = llm.generate("abc", FINAL_ONLY), llm.generate("abcd", FINAL_ONLY)
        with pytest.raises(RuntimeError, match="odd"):
            await anext(odd)
        assert (await collect(even))[0].outputs[0].text == "abcd"
        assert llm.num_unfinished == 0

    llm = make_async_llm()
    run(main(llm), llm)


def fail_at(step_id: int) -> Any:
    def fail(step):
        if step.step_id == step_id:
            raise RuntimeError("out of memory")

    return fail


def test_death_reaches_every_running_generator_and_later_calls():
    deaths: list[BaseException] = []

    async def main(llm):
        llm.on_death.append(deaths.append)
        tasks = [asyncio.ensure_future(collect(llm.generate("abcdef" * 3, CUMULATIVE))) for _ in range(20)]
        errors: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(error) for error in errors} == {EngineDeadError}
        assert all("out of memory" in str(error) for error in errors)
        assert {repr(error.__cause__) for error in errors} == {"RuntimeError('out of memory')"}
        assert len({id(error) for error in errors}) == 20
        assert llm.is_dead
        assert deaths == [llm.dead_error]
        for call in (anext(llm.generate("a")), anext(llm.chat([{"role": "user", "content": "a"}])), llm.tokenize("a")):
            with pytest.raises(EngineDeadError, match="out of memory"):
                await call
        with pytest.raises(EngineDeadError, match="out of memory"):
            llm.check_health()
        await llm.abort("0")
        assert await llm.drain()

    llm = make_async_llm(runner=ScriptedRunner(on_dispatch=fail_at(5)))
    run(main(llm), llm)


def test_a_callback_that_fails_keeps_no_other_from_hearing(caplog):
    deaths: list[BaseException] = []

    async def main(llm):
        llm.on_death.extend([lambda error: 1 / 0, deaths.append])
        with pytest.raises(EngineDeadError):
            await collect(llm.generate("abc", CUMULATIVE))
        await until(lambda: deaths)

    llm = make_async_llm(runner=ScriptedRunner(on_dispatch=fail_at(0)))
    run(main(llm), llm)
    assert "A callback about the engine's death failed" in caplog.text


def test_a_dead_engine_frees_the_device_when_it_is_shut_down():
    runner = ScriptedRunner(on_dispatch=fail_at(0))
    llm = make_async_llm(runner=runner)
    with pytest.raises(EngineDeadError):
        run(collect(llm.generate("abc", CUMULATIVE)))
    llm.shutdown()
    assert runner.is_shut_down
    with pytest.raises(EngineDeadError, match="out of memory"):
        llm.check_health()


def test_health_is_progress():
    gate = Gate()

    async def main(llm):
        llm.check_health()
        await asyncio.sleep(0.1)
        llm.check_health()  # idle as long as it likes
        task = asyncio.ensure_future(collect(llm.generate("abc", CUMULATIVE)))
        await asyncio.to_thread(gate.wait_for_step)
        await asyncio.sleep(0.1)
        with pytest.raises(EngineStalledError, match=r"no step ended for \d+ s; expected one within 0\.05 s"):
            llm.check_health()
        assert not llm.is_dead
        gate.open()
        await task
        assert await llm.drain()
        await asyncio.sleep(0.1)
        llm.check_health()

    llm = make_async_llm(runner=ScriptedRunner(on_dispatch=gate), stall_seconds=0.05)
    run(main(llm), llm)


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="needs the CPU clock of a thread")
def test_the_idle_thread_uses_no_cpu():
    async def main(llm):
        await collect(llm.generate("abc", CUMULATIVE))
        clock = time.pthread_getcpuclockid(llm._thread._thread.ident)
        await asyncio.sleep(0.1)
        before = time.clock_gettime_ns(clock)
        await asyncio.sleep(1)
        assert time.clock_gettime_ns(clock) == before

    llm = make_async_llm()
    run(main(llm), llm)


def test_shutdown_ends_what_runs():
    gate, runner = Gate(), ScriptedRunner()
    runner.on_dispatch = gate

    async def main(llm):
        tasks = [asyncio.ensure_future(collect(llm.generate("abc", CUMULATIVE))) for _ in range(3)]
        await asyncio.to_thread(gate.wait_for_step)
        stopping = asyncio.ensure_future(asyncio.to_thread(llm.shutdown))
        await until(lambda: llm._thread._is_stopping)
        gate.open()
        await stopping
        for task in tasks:
            with pytest.raises(EngineDeadError, match="the engine was shut down"):
                await task
        with pytest.raises(EngineDeadError, match="the engine was shut down"):
            await anext(llm.generate("abc"))
        assert llm.is_dead
        assert not llm._thread._thread.is_alive()
        llm.shutdown()

    llm = make_async_llm(runner=runner)
    run(main(llm))
    assert runner.is_shut_down


def test_a_forgotten_engine_shuts_itself_down():
    runner = ScriptedRunner()
    llm = make_async_llm(runner=runner)
    run(collect(llm.generate("abc", CUMULATIVE)))
    thread, alive = llm._thread._thread, weakref.ref(llm)
    del llm
    gc.collect()
    assert alive() is None
    assert not thread.is_alive()
    assert runner.is_shut_down


def test_it_tells_about_its_model():
    llm = make_async_llm(generation_config={"temperature": 0.5})
    assert (llm.vocab_size, llm.max_model_len, llm.config.model) == (258, 64, "scripted")
    assert llm.get_default_sampling_params().temperature == 0.5
    assert llm.get_tokenizer().eos_token == "<eos>"
    assert llm.tokenizer is not None
    assert llm.get_world_size() == 1
    assert repr(llm) == "AsyncJaxLLM(model='scripted', dtype='auto', device='auto')"
    llm.shutdown()
