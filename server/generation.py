"""One HTTP request that generates: admitted, tokenised, run for each of its prompts, and ended with its client."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from jaxllm.beam_search_params import BeamSearchParams
from jaxllm.outputs import CompletionOutput, RequestOutput, as_request_output
from jaxllm.sampling_params import SamplingParams
from jaxllm.server.context import ServerContext
from jaxllm.server.errors import ApiError
from jaxllm.server.prompts import ServedPrompt
from jaxllm.server.request_log import RequestLog

IndexedOutput = tuple[int, RequestOutput]
"""A prompt's index in its request, and what was generated for it."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What one HTTP request asks the engine for."""

    response_id: str
    """The answer's id; prompts run under names made from it."""
    num_prompts: int
    prepare: Callable[[], Awaitable[Sequence[ServedPrompt]]]
    """Renders and tokenises; called once the request is admitted."""
    params: SamplingParams | BeamSearchParams
    priority: int
    is_echo_only: bool = False
    """Nothing is generated: the answer is the prompt."""

    @property
    def num_sequences(self) -> int:
        """Completions of all prompts."""
        per_prompt = self.params.beam_width if isinstance(self.params, BeamSearchParams) else self.params.n
        return self.num_prompts * per_prompt


async def run(context: ServerContext, generation: Generation) -> AsyncGenerator[IndexedOutput]:
    """The outputs of all prompts as they come. Closing it early aborts what still runs."""
    with context.admission.enter(generation.num_sequences) as ticket:
        prompts = await generation.prepare()
        ticket.count_tokens(sum(len(prompt.token_ids) for prompt in prompts))
        log = RequestLog(context.config, generation.response_id)
        log.start(prompts, generation.params)
        streams = [_run_one(context, generation, index, prompt) for index, prompt in enumerate(prompts)]
        try:
            async with aclosing(merge(streams)) as outputs:
                async for index, output in outputs:
                    _check_outcome(output)
                    log.add(index, output)
                    yield index, output
        except (asyncio.CancelledError, GeneratorExit):
            log.abort()
            raise


async def collect(context: ServerContext, generation: Generation) -> list[RequestOutput]:
    """The final output of each prompt."""
    finals: dict[int, RequestOutput] = {}
    async with aclosing(run(context, generation)) as outputs:
        async for index, output in outputs:
            finals[index] = output
    return [finals[index] for index in sorted(finals)]


async def merge(streams: Sequence[AsyncGenerator[RequestOutput]]) -> AsyncGenerator[IndexedOutput]:
    """What several generators give, as it comes, with the index of the generator; the first error ends all."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for output in only:
                yield 0, output
        return
    # With room for one, a slow reader holds the pumps up, and each stream joins what comes meanwhile.
    queue: asyncio.Queue[IndexedOutput | BaseException | None] = asyncio.Queue(maxsize=1)

    async def pump(index: int, stream: AsyncGenerator[RequestOutput]) -> None:
        try:
            async with aclosing(stream):
                async for output in stream:
                    await queue.put((index, output))
        except Exception as error:
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        num_running = len(tasks)
        while num_running:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                num_running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run_one(
    context: ServerContext, generation: Generation, index: int, prompt: ServedPrompt
) -> AsyncGenerator[RequestOutput]:
    """The outputs of one prompt."""
    # Clients may send one id twice, so the engine gets names of our own.
    name = f"{generation.response_id}-{index}-{uuid.uuid4().hex[:8]}"
    params = generation.params
    if generation.is_echo_only and isinstance(params, SamplingParams) and params.prompt_logprobs is None:
        yield _echo_output(name, prompt, params.n)
        return
    context.admission.engine_names.add(name)
    try:
        if isinstance(params, BeamSearchParams):
            result = await context.llm.beam_search(prompt.as_input, params, name, priority=generation.priority)
            yield as_request_output(result)
            return
        async with aclosing(
            context.llm.generate(prompt.as_input, params, name, priority=generation.priority)
        ) as outputs:
            async for output in outputs:
                yield _without_generation(output) if generation.is_echo_only else output
    finally:
        context.admission.engine_names.discard(name)


def _echo_output(name: str, prompt: ServedPrompt, n: int) -> RequestOutput:
    """The answer to a request for no tokens at all, which needs no engine."""
    return RequestOutput(
        request_id=name,
        prompt=prompt.text,
        prompt_token_ids=prompt.token_ids,
        outputs=[CompletionOutput(index=index, text="", token_ids=[], finish_reason="length") for index in range(n)],
        finished=True,
    )


def _without_generation(output: RequestOutput) -> RequestOutput:
    """The engine generates a token at least; nobody asked for it."""
    bare = [
        dataclasses.replace(
            completion,
            text="",
            token_ids=[],
            logprobs=None if completion.logprobs is None else [],
            finish_reason=completion.finish_reason and "length",
            stop_reason=None,
        )
        for completion in output.outputs
    ]
    return dataclasses.replace(output, outputs=bare)


def _check_outcome(output: RequestOutput) -> None:
    if any(completion.finish_reason == "error" for completion in output.outputs):
        raise ApiError(500, "the engine failed on this request")
