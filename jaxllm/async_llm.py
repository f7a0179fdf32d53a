"""The model for asyncio programs: a generator of outputs per request, over an engine in its own thread."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from jaxllm.beam_search_params import BeamSearchParams
from jaxllm.config import EngineConfig
from jaxllm.engine_args import make_engine_config
from jaxllm.errors import EngineDeadError, ValidationError
from jaxllm.frontend.arguments import (
    AnyParams,
    check_params,
    check_reset_options,
    check_search_params,
    refuse_unsupported,
)
from jaxllm.frontend.conversations import ChatOptions, Message
from jaxllm.frontend.engine_thread import EngineThread
from jaxllm.frontend.loaded_model import LoadedModel
from jaxllm.frontend.output_stream import OutputStream
from jaxllm.frontend.preparation import prepare_requests
from jaxllm.frontend.prompts import tokenize_prompts
from jaxllm.frontend.request_maker import Prepared
from jaxllm.frontend.statistics import StatsListener
from jaxllm.frontend.statistics_log import StatisticsLog, log_interval
from jaxllm.inputs import ParsedPrompt, Prompt, TokenizationOptions, parse_prompt
from jaxllm.outputs import BeamSearchOutput, RequestOutput
from jaxllm.sampling_params import SamplingParams
from jaxllm.validation import check_float, check_int

if TYPE_CHECKING:
    from jaxllm.build import BuiltEngine

STALL_SECONDS = 300.0
"""How long a step may take before `check_health` calls the engine stalled."""

_DRAIN_INTERVAL = 0.02
"""Seconds between two looks of `drain`."""


class AsyncJaxLLM(LoadedModel):
    """A model, ready to serve any number of requests at once, on any number of event loops.

    `AsyncJaxLLM(model=...)` loads it as `JaxLLM` does, and blocks meanwhile. Then nothing blocks: templates and
    tokenizers run in a pool of threads, steps in a thread of their own, which sleeps while no request runs.
    """

    def __init__(self, model: str | Path, *, stall_seconds: float = STALL_SECONDS, **engine_arguments: Any) -> None:
        stall_seconds = _check_stall_seconds(stall_seconds)
        self._start(make_engine_config(model, **({"disable_log_stats": False} | engine_arguments)), stall_seconds)

    @classmethod
    def from_engine_args(
        cls, engine_args: EngineConfig | Mapping[str, Any], *, stall_seconds: float = STALL_SECONDS
    ) -> Self:
        """From a configuration (such as an `AsyncEngineArgs`), or from the constructor's arguments as a mapping."""
        if not isinstance(engine_args, EngineConfig):
            return cls(**({"stall_seconds": stall_seconds} | dict(engine_args)))
        llm = cls.__new__(cls)
        llm._start(engine_args, _check_stall_seconds(stall_seconds))
        return llm

    @classmethod
    def from_built(cls, built: BuiltEngine, *, stall_seconds: float = STALL_SECONDS) -> Self:
        """Over an engine that was built already."""
        llm = cls.__new__(cls)
        llm._attach(built, stall_seconds)
        return llm

    def _start(self, config: EngineConfig, stall_seconds: float) -> None:
        from jaxllm.build import build_engine  # imports jax and transformers

        self._attach(build_engine(config), stall_seconds)

    def _attach(self, built: BuiltEngine, stall_seconds: float) -> None:
        super().__init__(built)
        if not built.config.disable_log_stats:
            self.listeners.append(StatisticsLog(log_interval()))
        self._pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="jaxllm-prompts")
        self._thread = EngineThread(self._frontend, stall_seconds=stall_seconds)
        self._finalizer = weakref.finalize(self, self._thread.stop)

    def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        lora_request: None = None,
        prompt_text: str | None = None,
        trace_headers: None = None,
        data_parallel_rank: int | None = None,
        session_id: None = None,
    ) -> AsyncGenerator[RequestOutput]:
        """Completes one prompt; the outputs come as its params' `output_kind` says.

        A reader that is slower than the engine gets the newest output (CUMULATIVE) or one with all that is new
        (DELTA). Leaving the generator in any way aborts the request. A wrong argument is raised by the first output
        that is asked for; until then nothing runs. `prompt_text` is handed back as the text of a tokenised prompt.
        """

        def prepare(params: AnyParams) -> Prepared:
            refuse_unsupported(
                lora_request=lora_request,
                trace_headers=trace_headers,
                data_parallel_rank=data_parallel_rank or None,
                session_id=session_id,
            )
            parsed = parse_prompt("prompt", prompt)
            if prompt_text is not None:
                parsed = _with_text(parsed, prompt_text)
            return self._prepare(parsed, params, TokenizationOptions.parse(tokenization_kwargs), priority)

        return self._run(prepare, partial(self._check_params, sampling_params), request_id)

    def chat(
        self,
        messages: Sequence[Message],
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
        chat_template: str | Path | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[RequestOutput]:
        """Answers one conversation: rendered with the chat template, then completed as `generate` does."""
        chat_options = ChatOptions(
            chat_template=chat_template,
            chat_template_content_format=chat_template_content_format,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
        )

        def prepare(params: AnyParams) -> Prepared:
            options = TokenizationOptions.parse(tokenization_kwargs, add_special_tokens=False)
            text = self._renderer.render(messages, chat_options)
            return self._prepare(ParsedPrompt(text=text, token_ids=None), params, options, priority)

        return self._run(prepare, partial(self._check_params, sampling_params), request_id)

    async def beam_search(
        self,
        prompt: Prompt,
        params: BeamSearchParams,
        request_id: str | None = None,
        *,
        priority: int = 0,
        tokenization_kwargs: Mapping[str, Any] | None = None,
    ) -> BeamSearchOutput:
        """Searches likely continuations of one prompt, as `BeamSearchParams` says; cancelling it aborts the search."""

        def prepare(params: AnyParams) -> Prepared:
            options = TokenizationOptions.parse(tokenization_kwargs)
            return self._prepare(parse_prompt("prompt", prompt), params, options, priority)

        outputs: AsyncGenerator[Any] = self._run(prepare, partial(check_search_params, "params", params), request_id)
        async with aclosing(outputs):
            output: BeamSearchOutput = await anext(outputs)
            return output

    async def tokenize(self, prompt: Prompt, options: TokenizationOptions | None = None) -> list[int]:
        """The token ids of a prompt as `generate` would see it, before it is cut to length."""
        parsed = parse_prompt("prompt", prompt)
        return await self._off_loop(partial(self._tokenize, parsed, options or TokenizationOptions()))

    async def render_chat(
        self,
        messages: Sequence[Message],
        *,
        chat_template: str | Path | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt that `chat` would complete; it holds its special tokens already."""
        options = ChatOptions(
            chat_template=chat_template,
            chat_template_content_format=chat_template_content_format,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
        )
        return await self._off_loop(partial(self._renderer.render, messages, options))

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """Ends requests; each gives a last output with finish_reason "abort". Unknown ids are ignored."""
        request_ids = [request_id] if isinstance(request_id, str) else list(request_id)
        for one in request_ids:
            self._thread.open_requests.mark_aborted(one)
        self._thread.abort(request_ids)

    async def drain(self, timeout: float | None = None) -> bool:
        """Waits until no request runs; False if some still do after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while self._thread.open_requests:
                    await asyncio.sleep(_DRAIN_INTERVAL)
        except TimeoutError:
            return False
        return True

    def check_health(self) -> None:
        """Raises EngineDeadError if nothing is served any more, EngineStalledError if a step takes too long."""
        self._thread.check_health()

    @property
    def is_dead(self) -> bool:
        """Whether the engine failed or was shut down."""
        return self._thread.error is not None

    @property
    def dead_error(self) -> BaseException | None:
        """Why the engine is dead."""
        return self._thread.error

    @property
    def on_death(self) -> list[Callable[[BaseException], None]]:
        """Functions that the engine's thread calls when it fails; not for a shutdown."""
        return self._thread.on_death

    @property
    def listeners(self) -> list[StatsListener]:
        """Objects that the engine's thread tells of each step and each finished request."""
        return self._frontend.listeners

    @property
    def num_unfinished(self) -> int:
        """Sequences of unfinished requests: a request with n completions counts n times."""
        return self._thread.open_requests.num_sequences

    @property
    def num_unfinished_tokens(self) -> int:
        """Prompt tokens of unfinished requests."""
        return self._thread.open_requests.num_prompt_tokens

    async def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        """Forgets all cached prompts; False, and nothing done, while requests run.

        With `reset_running_requests` these lose their pages too, and compute all their tokens again.
        """
        reset_running = check_reset_options(reset_running_requests, reset_connector)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()

        def reset() -> None:
            is_done = self._frontend.reset_prefix_cache(reset_running)
            loop.call_soon_threadsafe(answer.set_result, is_done)

        self._thread.call(reset)
        return await answer

    def shutdown(self) -> None:
        """Ends the engine and frees the device; running generators raise EngineDeadError."""
        self._finalizer()
        self._pool.shutdown(wait=False)

    async def _run(
        self,
        prepare: Callable[[AnyParams], Prepared],
        check: Callable[[], AnyParams],
        request_id: str | None,
    ) -> AsyncGenerator[RequestOutput]:
        params = check()
        self._thread.check_alive()
        num_sequences = params.beam_width if isinstance(params, BeamSearchParams) else params.n
        request = self._thread.open_requests.open(request_id, num_sequences)
        stream: OutputStream | None = None
        try:
            prepared = await self._off_loop(partial(prepare, params))
            stream = self._thread.add(prepared, request)
            is_finished = False
            while not is_finished:
                output = await stream.read()
                is_finished = output.finished
                yield output
        finally:
            if stream is None:
                self._thread.open_requests.close(request)
            else:
                self._thread.drop(stream)

    def _check_params(self, given: SamplingParams | None) -> SamplingParams:
        return self._frontend.default_sampling_params if given is None else check_params("sampling_params", given)

    def _prepare(
        self, parsed: ParsedPrompt, params: AnyParams, options: TokenizationOptions, priority: int
    ) -> Prepared:
        [prepared] = prepare_requests(self._frontend, [parsed], [params], [check_int("priority", priority)], options)
        return prepared

    def _tokenize(self, parsed: ParsedPrompt, options: TokenizationOptions) -> list[int]:
        return tokenize_prompts([parsed], self._built.tokenizer, options, lambda count: None)[0]

    async def _off_loop[Result](self, work: Callable[[], Result]) -> Result:
        """Runs in the pool; the event loop goes on meanwhile."""
        self._thread.check_alive()
        try:
            future = self._pool.submit(work)
        except RuntimeError as error:  # a shutdown came between
            raise EngineDeadError("the engine was shut down") from error
        return await asyncio.wrap_future(future)


def _with_text(parsed: ParsedPrompt, text: str) -> ParsedPrompt:
    if parsed.text is not None and parsed.text != text:
        raise ValidationError(
            f"prompt_text must be the prompt's own text or None, got {text!r}", parameter="prompt_text"
        )
    return dataclasses.replace(parsed, text=text)


def _check_stall_seconds(value: Any) -> float:
    seconds = check_float("stall_seconds", value, low=0.0)
    if seconds == 0.0:
        raise ValidationError("stall_seconds must be above 0, got 0", parameter="stall_seconds")
    return seconds


AsyncLLM = AsyncJaxLLM
"""The name that users of vLLM know."""

AsyncLLMEngine = AsyncJaxLLM
"""Its older name."""
