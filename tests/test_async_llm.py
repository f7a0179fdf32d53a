"""AsyncJaxLLM: what each request gets, what callers may do meanwhile, and how requests end."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest

from jaxllm.async_llm import AsyncJaxLLM
from jaxllm.errors import EngineDeadError, EngineStalledError, ValidationError
from jaxllm.inputs import TokenizationOptions
from jaxllm.sampling_params import RequestOutputKind, SamplingParams
from tests.frontend.helpers import EOS, Gate, ScriptedRunner, ids, make_async_llm, make_llm, texts

DELTA = SamplingParams(max_tokens=30, output_kind=RequestOutputKind.DELTA)
CUMULATIVE = SamplingParams(max_tokens=30)
FINAL_ONLY = SamplingParams(max_tokens=30, output_kind=RequestOutputKind.FINAL_ONLY)


def run(coroutine: Coroutine[Any, Any, Any], llm: AsyncJaxLLM | None = None) -> Any:
    """Runs on a loop of its own, ends the engine, and fails rather than hang."""

    async def limited() -> Any:
        async with asyncio.timeout(60):
            return await coroutine

    try:
        return asyncio.run(limited())
    finally:
        if llm is not None:
            llm.shutdown()


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


async def collect(outputs):
    return [output async for output in outputs]


def test_cumulative_outputs_grow():
    async def main(llm):
        outputs = await collect(llm.generate("abc", CUMULATIVE))
        assert texts(outputs) == sorted(texts(outputs), key=len)
        assert outputs[-1].outputs[0].text == "abc"
        assert outputs[-1].outputs[0].token_ids == [*ids("abc"), EOS]
        assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]

    llm = make_async_llm()
    run(main(llm), llm)


def test_a_reader_that_keeps_up_gets_every_step():
    gate = Gate()

    async def main(llm):
        outputs = llm.generate("abc", CUMULATIVE)
        shown = []
        for _ in range(4):
            reading = asyncio.ensure_future(anext(outputs))
            while not reading.done():
                gate.pass_one()
                await asyncio.sleep(0.001)
            shown.append(reading.result().outputs[0].text)
        assert shown == ["a", "ab", "abc", "abc"]

    llm = make_async_llm(runner=ScriptedRunner(on_dispatch=gate))
    run(main(llm), llm)


def test_delta_outputs_add_up():
    async def main(llm):
        params = DELTA.clone(logprobs=0, prompt_logprobs=0)
        outputs = await collect(llm.generate("abcdef", params))
        assert "".join(texts(outputs)) == "abcdef"
        assert [token for output in outputs for token in output.outputs[0].token_ids] == [*ids("abcdef"), EOS]
        assert sum(len(output.outputs[0].logprobs) for output in outputs) == 7
        assert sum(len(output.prompt_logprobs) for output in outputs) == 6

    llm = make_async_llm()
    run(main(llm), llm)


def test_final_only_gives_one_output():
    llm = make_async_llm()
    assert texts(run(collect(llm.generate("abc", FINAL_ONLY)), llm)) == ["abc"]


def test_default_params_come_from_the_model():
    llm = make_async_llm(generation_config={"max_new_tokens": 2})
    assert run(collect(llm.generate("abc")), llm)[-1].outputs[0].text == "ab"


@pytest.mark.parametrize("prompt", ["ab", {"prompt": "ab"}, ids("ab"), {"prompt_token_ids": ids("ab"), "prompt": "x"}])
def test_prompt_forms(prompt):
    llm, sync = make_async_llm(), make_llm()
    [output] = run(collect(llm.generate(prompt, FINAL_ONLY)), llm)
    [expected] = sync.generate(prompt, use_tqdm=False)
    assert (output.prompt, output.prompt_token_ids) == (expected.prompt, expected.prompt_token_ids)
    assert output.outputs == expected.outputs


def test_several_completions_are_one_request():
    async def main(llm):
        task = asyncio.ensure_future(collect(llm.generate("x", FINAL_ONLY.clone(n=3, seed=5), "mine")))
        await asyncio.sleep(0)
        assert llm.num_unfinished == 3
        [output] = await task
        assert output.request_id == "mine"
        assert [completion.index for completion in output.outputs] == [0, 1, 2]
        return texts([output])

    llm = make_async_llm({"x": "SEED"})
    expected = texts(make_llm({"x": "SEED"}).generate("x", SamplingParams(n=3, seed=5), use_tqdm=False))
    assert run(main(llm), llm) == expected


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
    reading = asyncio.ensure_future(anext(outputs))
    while not reading.done():
        gate.pass_one()
        await asyncio.sleep(0.001)
    gate.open()
    while llm.num_unfinished:
        time.sleep(0.001)  # the event loop stands still meanwhile
    second = await anext(outputs)
    assert second.finished
    assert [output async for output in outputs] == []
    return reading.result(), second


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


async def break_out(llm):
    async for _ in llm.generate("abcdef", CUMULATIVE, "it"):
        break


async def close(llm):
    outputs = llm.generate("abcdef", CUMULATIVE, "it")
    await anext(outputs)
    await outputs.aclose()


async def cancel(llm):
    task = asyncio.ensure_future(collect(llm.generate("abcdef", CUMULATIVE, "it")))
    await until(lambda: llm.get_metrics().num_running)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def time_out(llm):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(collect(llm.generate("abcdef", CUMULATIVE, "it")), 0.05)


@pytest.mark.parametrize("leave", [break_out, close, cancel, time_out])
def test_leaving_the_generator_aborts_the_request_within_a_step(leave):
    """The runner never ends a text by itself, and only a few steps' time passes."""
    runner = ScriptedRunner({"abcdef": "x" * 1000}, max_model_len=1024)
    runner.on_dispatch = lambda step: time.sleep(0.001)

    async def main(llm):
        params = CUMULATIVE.clone(max_tokens=1000)
        llm.generate, generate = lambda prompt, _, request_id: generate(prompt, params, request_id), llm.generate
        await leave(llm)
        assert await llm.drain(timeout=30)
        metrics = llm.get_metrics()
        assert (metrics.num_running, metrics.num_waiting, metrics.kv_cache_usage) == (0, 0, 0.0)
        assert metrics.finished_by_reason == {"abort": 1}
        del llm.generate
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


def test_request_ids():
    gate = Gate()

    async def main(llm):
        tasks = [asyncio.ensure_future(collect(llm.generate("a", CUMULATIVE, name))) for name in ("1", "1-0", None)]
        tasks.append(asyncio.ensure_future(collect(llm.generate("a", CUMULATIVE.clone(n=2), None))))
        await asyncio.sleep(0)
        with pytest.raises(ValidationError, match="request_id '1' belongs to a running request already"):
            await anext(llm.generate("b", CUMULATIVE, "1"))
        with pytest.raises(ValidationError, match="request_id must be a string, got 5"):
            await anext(llm.generate("b", CUMULATIVE, 5))
        gate.open()
        assert [(await task)[-1].request_id for task in tasks] == ["1", "1-0", "0", "2"]
        assert (await collect(llm.generate("b", CUMULATIVE, "1")))[-1].request_id == "1"

    llm = make_async_llm(runner=ScriptedRunner(on_dispatch=gate))
    run(main(llm), llm)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "prompt must have at least one token, got an empty prompt"),
        ({"prompt": ["a", "b"]}, r"prompt\[0\] must be an integer, got 'a'"),
        ({"prompt": "a" * 64}, "prompt must have at most 63 tokens"),
        ({"sampling_params": {"n": 1}}, "sampling_params must be a SamplingParams"),
        ({"sampling_params": SamplingParams(logprobs=21)}, "logprobs must be at most max_logprobs"),
        ({"priority": "high"}, "priority must be an integer, got 'high'"),
        ({"priority": 1}, "priority must be 0 unless scheduling_policy is 'priority', got 1"),
        ({"tokenization_kwargs": {"color": 1}}, "tokenization_kwargs may hold"),
        ({"lora_request": "x"}, "lora_request is not supported yet"),
        ({"trace_headers": {"a": "b"}}, "trace_headers is not supported yet"),
        ({"session_id": "x"}, "session_id is not supported yet"),
        ({"data_parallel_rank": 1}, "data_parallel_rank is not supported yet"),
        ({"prompt_text": "b"}, "prompt_text must be the prompt's own text or None, got 'b'"),
    ],
)
def test_a_wrong_request_is_refused_by_its_first_output(arguments, message):
    async def main(llm):
        outputs = llm.generate(**({"prompt": "a"} | arguments))
        with pytest.raises(ValidationError, match=message):
            await anext(outputs)
        assert (llm.num_unfinished, llm.get_metrics().num_steps) == (0, 0)
        assert (await collect(llm.generate("ab", FINAL_ONLY)))[0].outputs[0].text == "ab"

    llm = make_async_llm()
    run(main(llm), llm)


def test_text_of_a_tokenised_prompt():
    llm = make_async_llm()
    [output] = run(collect(llm.generate(ids("ab"), FINAL_ONLY, prompt_text="shown", data_parallel_rank=0)), llm)
    assert output.prompt == "shown"


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


def test_chat():
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "so"}]
    replies = {"<user>hi<assistant>": "hello", "<user>hi<assistant>so": " be it", "hi!": "short"}

    async def main(llm):
        assert (await collect(llm.chat(messages[:1], FINAL_ONLY)))[0].outputs[0].text == "hello"
        goes_on = {"add_generation_prompt": False, "continue_final_message": True}
        assert (await collect(llm.chat(messages, FINAL_ONLY, "mine", **goes_on)))[0].outputs[0].text == " be it"
        assert await llm.render_chat(messages, **goes_on) == "<user>hi<assistant>so"
        template = "{{ messages[0]['content'] }}!"
        assert await llm.render_chat(messages, chat_template=template) == "hi!"
        assert (await collect(llm.chat(messages, FINAL_ONLY, chat_template=template)))[0].prompt == "hi!"
        with pytest.raises(ValidationError, match="set only one of them"):
            await anext(llm.chat(messages, continue_final_message=True))

    llm = make_async_llm(replies)
    run(main(llm), llm)


def test_tokenize_as_asked():
    async def main(llm):
        assert await llm.tokenize("ab") == ids("ab")
        assert await llm.tokenize(ids("ab")) == ids("ab")
        with pytest.raises(ValidationError, match=r"prompt\['prompt'\] must be a string"):
            await llm.tokenize({"prompt": 5})

    llm = make_async_llm()
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


def fail_at(step_id: int) -> Any:
    def fail(step):
        if step.step_id == step_id:
            raise RuntimeError("out of memory")

    return fail


def test_death_reaches_every_running_generator_and_later_calls():
    deaths = []

    async def main(llm):
        llm.on_death.append(deaths.append)
        tasks = [asyncio.ensure_future(collect(llm.generate("abcdef" * 3, CUMULATIVE))) for _ in range(20)]
        errors = await asyncio.gather(*tasks, return_exceptions=True)
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
    deaths = []

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


def test_it_tells_about_its_model():
    llm = make_async_llm(generation_config={"temperature": 0.5})
    assert (llm.vocab_size, llm.max_model_len, llm.config.model) == (258, 64, "scripted")
    assert llm.get_default_sampling_params().temperature == 0.5
    assert llm.get_tokenizer().eos_token == "<eos>"
    assert llm.tokenizer is not None
    assert llm.get_world_size() == 1
    assert repr(llm) == "AsyncJaxLLM(model='scripted', dtype='auto', device='auto')"
    llm.shutdown()
