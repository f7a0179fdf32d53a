"""/v1/completions: texts that go on with prompts."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.datastructures import Headers
from starlette.responses import Response

from jaxllm.outputs import CompletionOutput, PositionLogprobs, RequestOutput
from jaxllm.server.chunks import ChunkEncoder, UsageCounter, encode_answer, encode_json, ending
from jaxllm.server.content_type import require_json
from jaxllm.server.context import ServerContext, choose_priority
from jaxllm.server.disconnect import while_connected
from jaxllm.server.event_stream import EventStream
from jaxllm.server.generation import Generation, IndexedOutput, collect, run
from jaxllm.server.logprobs import completion_logprobs, prompt_logprobs
from jaxllm.server.prompts import ServedPrompt, check_limits, check_prompts, tokenize_prompt
from jaxllm.server.protocol.completions import CompletionRequest, CompletionResponse
from jaxllm.server.protocol.refusals import refuse_unsupported
from jaxllm.server.protocol.usage import Usage
from jaxllm.server.request_ids import choose_request_id
from jaxllm.server.sampling import beam_params, completion_max_tokens, completion_params


def completion_routes(context: ServerContext) -> APIRouter:
    """The endpoint over one engine."""
    router = APIRouter(tags=["generation"], dependencies=[Depends(require_json)])

    @router.post("/v1/completions", response_model=CompletionResponse)
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        """Completes one prompt or several."""
        completion = _Completion(context, body, request.headers)
        if body.stream:
            return EventStream(completion.events(), keep_alive_interval=context.config.sse_keep_alive_interval)
        answer = await while_connected(request.receive, completion.answer())
        return Response(encode_answer(answer), media_type="application/json")

    return router


class _Completion:
    """One request and how it is answered."""

    def __init__(self, context: ServerContext, request: CompletionRequest, headers: Headers) -> None:
        refuse_unsupported(request)
        context.check_model(request.model)
        check_limits(request, context.config)
        self._context = context
        self._request = request
        self._prompts = check_prompts(request, context.config)
        self._names = context.token_names(request.return_tokens_as_token_ids)
        self._n = request.n or 1
        # Without a tokenizer texts stay empty, and only an event of its own shows that a token came.
        self._tells_tokens = (
            request.logprobs is not None or bool(request.return_token_ids) or context.llm.tokenizer is None
        )
        self._generation = Generation(
            response_id=f"cmpl-{choose_request_id(headers, request.request_id)}",
            num_prompts=len(self._prompts),
            prepare=self._prepare,
            params=(
                beam_params(request, completion_max_tokens(request, context.defaults), context.defaults)
                if request.use_beam_search
                else completion_params(request, context.defaults)
            ),
            priority=choose_priority(headers, request.priority),
            is_echo_only=request.max_tokens == 0,
        )
        self._head: dict[str, Any] = {
            "id": self._generation.response_id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": context.model_name,
        }

    async def _prepare(self) -> Sequence[ServedPrompt]:
        max_tokens = self._generation.params.max_tokens
        return [
            await tokenize_prompt(
                self._context.llm, item, self._request, add_special_tokens=True, max_tokens=max_tokens
            )
            for item in self._prompts
        ]

    async def answer(self) -> CompletionResponse:
        """All at once."""
        outputs = await collect(self._context, self._generation)
        usage = UsageCounter(tells_cached=self._context.config.enable_prompt_tokens_details)
        choices = []
        for index, output in enumerate(outputs):
            usage.add(index, output)
            choices += [self._choice(index, output, completion) for completion in output.outputs]
        return CompletionResponse(
            **self._head, choices=choices, usage=Usage(**usage.usage()), system_fingerprint=self._context.fingerprint
        )

    def _choice(self, index: int, output: RequestOutput, completion: CompletionOutput) -> Any:
        text = self._echoed(output) + completion.text
        returns_ids = self._request.return_token_ids
        return {
            "index": index * self._n + completion.index,
            "text": text,
            "logprobs": self._logprobs(output, completion, text, 0, is_first=True),
            "finish_reason": completion.finish_reason,
            "stop_reason": completion.stop_reason,
            "token_ids": completion.token_ids if returns_ids else None,
            "prompt_logprobs": (
                prompt_logprobs(output.prompt_logprobs) if self._request.prompt_logprobs is not None else None
            ),
            "prompt_token_ids": output.prompt_token_ids if returns_ids else None,
        }

    async def events(self) -> AsyncGenerator[bytes]:
        """Chunk by chunk."""
        config = self._context.config
        head = self._head
        if self._context.fingerprint is not None:
            head = {**head, "system_fingerprint": self._context.fingerprint}
        encoder = ChunkEncoder.make(
            head,
            self._request,
            forces_usage=config.enable_force_include_usage,
            tells_cached=config.enable_prompt_tokens_details,
        )
        lengths: dict[int, int] = {}
        async with aclosing(run(self._context, self._generation)) as outputs:
            async for index, output in outputs:
                encoder.count(index, output)
                chunks = b"".join(self._chunks((index, output), encoder, lengths))
                if chunks:
                    yield chunks
        end = encoder.encode_end()
        if end:
            yield end

    def _chunks(self, indexed: IndexedOutput, encoder: ChunkEncoder, lengths: dict[int, int]) -> list[bytes]:
        """An event per completion that has something to tell; `lengths` are those of the texts so far."""
        index, output = indexed
        chunks = []
        for completion in output.outputs:
            choice_index = index * self._n + completion.index
            is_first = choice_index not in lengths
            text = self._echoed(output) + completion.text if is_first else completion.text
            offset = lengths.get(choice_index, 0)
            lengths[choice_index] = offset + len(text)
            if text or completion.is_finished or self._tells_tokens or encoder.tells_usage_always:
                members = [f'"index":{choice_index}', f'"text":{encode_json(text)}']
                members += self._token_members(output, completion, text, offset, is_first=is_first)
                members += [ending(completion.finish_reason, completion.stop_reason)]
                chunks.append(encoder.encode(f"{{{','.join(members)}}}"))
        return chunks

    def _token_members(
        self, output: RequestOutput, completion: CompletionOutput, text: str, offset: int, *, is_first: bool
    ) -> list[str]:
        logprobs = self._logprobs(output, completion, text, offset, is_first=is_first)
        members = [f'"logprobs":{encode_json(logprobs)}']
        if self._request.return_token_ids:
            members.append(f'"token_ids":{encode_json(completion.token_ids)}')
            if is_first:
                members.append(f'"prompt_token_ids":{encode_json(output.prompt_token_ids)}')
        return members

    def _logprobs(
        self, output: RequestOutput, completion: CompletionOutput, text: str, offset: int, *, is_first: bool
    ) -> dict[str, Any] | None:
        """Those of the tokens in `text`: an echoed prompt's come before the first of the answer."""
        count = self._request.logprobs
        if count is None:
            return None
        token_ids = completion.token_ids
        positions: list[PositionLogprobs | None] = list(completion.logprobs or [])
        if self._request.echo and is_first:
            token_ids = [*output.prompt_token_ids, *token_ids]
            positions = [*(output.prompt_logprobs or []), *positions]
        return completion_logprobs(token_ids, positions, count=count, names=self._names, text=text, offset=offset)

    def _echoed(self, output: RequestOutput) -> str:
        return self._names.prompt(output) if self._request.echo else ""
