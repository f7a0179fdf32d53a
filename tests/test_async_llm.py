"""AsyncJaxLLM: what a request gives, in which forms it may come, and what is refused."""

from __future__ import annotations

import asyncio

import pytest

from jaxllm.errors import ValidationError
from jaxllm.sampling_params import SamplingParams
from tests.frontend.async_helpers import CUMULATIVE, DELTA, FINAL_ONLY, collect, next_behind, run
from tests.frontend.helpers import EOS, Gate, ScriptedRunner, ids, make_async_llm, make_llm, texts


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
        shown = [await next_behind(gate, outputs, num_steps=num_steps) for num_steps in (2, 1, 1, 1)]
        assert texts(shown) == ["a", "ab", "abc", "abc"]

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
