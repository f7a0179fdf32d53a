"""/v1/chat/completions: the next message of a conversation."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.datastructures import Headers
from starlette.responses import Response

from jaxllm.outputs import CompletionOutput, RequestOutput
from jaxllm.server.chunks import ChunkEncoder, UsageCounter, encode_answer, encode_json, ending
from jaxllm.server.content_type import require_json
from jaxllm.server.context import ServerContext, choose_priority
from jaxllm.server.disconnect import while_connected
from jaxllm.server.event_stream import EventStream
from jaxllm.server.generation import Generation, collect, run
from jaxllm.server.logprobs import chat_logprobs, prompt_logprobs
from jaxllm.server.prompts import ServedPrompt, check_limits, render_messages, tokenize_prompt
from jaxllm.server.protocol.chat import ChatMessage, ChatRequest, ChatResponse
from jaxllm.server.protocol.refusals import refuse_unsupported
from jaxllm.server.protocol.usage import Usage
from jaxllm.server.request_ids import choose_request_id
from jaxllm.server.sampling import beam_params, chat_max_tokens, chat_params


def chat_routes(context: ServerContext) -> APIRouter:
    """The endpoint over one engine."""
    router = APIRouter(tags=["generation"], dependencies=[Depends(require_json)])

    @router.post("/v1/chat/completions", response_model=ChatResponse)
    async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
        """Answers a conversation."""
        chat = _Chat(context, body, request.headers)
        if body.stream:
            return EventStream(chat.events(), keep_alive_interval=context.config.sse_keep_alive_interval)
        answer = await while_connected(request.receive, chat.answer())
        return Response(encode_answer(answer), media_type="application/json")

    return router


class _Chat:
    """One request and how it is answered."""

    def __init__(self, context: ServerContext, request: ChatRequest, headers: Headers) -> None:
        refuse_unsupported(request)
        context.check_model(request.model)
        check_limits(request, context.config)
        self._context = context
        self._request = request
        self._names = context.token_names(request.return_tokens_as_token_ids)
        self._role = _reply_role(request, context.config.response_role)
        self._prefix = _last_text(request.messages, self._role) if request.echo else ""
        self._tells_tokens = bool(request.logprobs or request.return_token_ids)
        self._generation = Generation(
            response_id=f"chatcmpl-{choose_request_id(headers, request.request_id)}",
            num_prompts=1,
            prepare=self._prepare,
            params=(
                beam_params(request, chat_max_tokens(request, context.defaults), context.defaults)
                if request.use_beam_search
                else chat_params(request, context.defaults)
            ),
            priority=choose_priority(headers, request.priority),
        )
        self._created = int(time.time())

    async def _prepare(self) -> Sequence[ServedPrompt]:
        request, context = self._request, self._context
        kwargs = dict(request.chat_template_kwargs or {})
        if request.documents is not None:
            kwargs["documents"] = request.documents
        text = await render_messages(
            context.llm,
            context.config,
            request.messages,
            chat_template=request.chat_template,
            chat_template_kwargs=kwargs,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
        )
        max_tokens = self._generation.params.max_tokens
        return [await tokenize_prompt(context.llm, text, request, add_special_tokens=False, max_tokens=max_tokens)]

    async def answer(self) -> ChatResponse:
        """All at once."""
        [output] = await collect(self._context, self._generation)
        usage = UsageCounter(tells_cached=self._context.config.enable_prompt_tokens_details)
        usage.add(0, output)
        return ChatResponse(
            id=self._generation.response_id,
            created=self._created,
            model=self._context.model_name,
            choices=[self._choice(completion) for completion in output.outputs],
            system_fingerprint=self._context.fingerprint,
            usage=Usage(**usage.usage()),
            prompt_logprobs=prompt_logprobs(output.prompt_logprobs),
            prompt_token_ids=output.prompt_token_ids if self._request.return_token_ids else None,
            prompt_text=self._names.prompt(output) if self._request.return_prompt_text else None,
        )

    def _choice(self, completion: CompletionOutput) -> Any:
        return {
            "index": completion.index,
            "message": {"role": self._role, "content": self._prefix + completion.text},
            "logprobs": self._logprobs(completion),
            "finish_reason": completion.finish_reason,
            "stop_reason": completion.stop_reason,
            "token_ids": completion.token_ids if self._request.return_token_ids else None,
        }

    async def events(self) -> AsyncGenerator[bytes]:
        """Chunk by chunk; the first of each choice tells the role."""
        encoder = self._make_encoder()
        is_first = True
        async with aclosing(run(self._context, self._generation)) as outputs:
            async for _, output in outputs:
                encoder.count(0, output)
                chunks = self._first_chunks(output, encoder) if is_first else []
                is_first = False
                chunks += self._chunks(output, encoder)
                if chunks:
                    yield b"".join(chunks)
        end = encoder.encode_end()
        if end:
            yield end

    def _make_encoder(self) -> ChunkEncoder:
        config = self._context.config
        head: dict[str, Any] = {
            "id": self._generation.response_id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._context.model_name,
        }
        if self._context.fingerprint is not None:
            head["system_fingerprint"] = self._context.fingerprint
        return ChunkEncoder.make(
            head,
            self._request,
            forces_usage=config.enable_force_include_usage,
            tells_cached=config.enable_prompt_tokens_details,
        )

    def _first_chunks(self, output: RequestOutput, encoder: ChunkEncoder) -> list[bytes]:
        """The role for every choice, and the message that an echo repeats."""
        extra = ""
        if self._request.return_token_ids:
            extra += f',"prompt_token_ids":{encode_json(output.prompt_token_ids)}'
        if self._request.return_prompt_text:
            extra += f',"prompt_text":{encode_json(self._names.prompt(output))}'
        deltas = [{"role": self._role, "content": ""}]
        if self._prefix:
            deltas.append({"content": self._prefix})
        return [
            encoder.encode(
                f'{{"index":{index},"delta":{encode_json(delta)},"logprobs":null,"finish_reason":null}}',
                extra if position == 0 else "",
            )
            for position, delta in enumerate(deltas)
            for index in range(self._request.n or 1)
        ]

    def _chunks(self, output: RequestOutput, encoder: ChunkEncoder) -> list[bytes]:
        """An event per choice that has something to tell."""
        chunks = []
        for completion in output.outputs:
            if completion.text or completion.is_finished or self._tells_tokens or encoder.tells_usage_always:
                logprobs = self._logprobs(completion)
                members = [
                    f'"index":{completion.index}',
                    f'"delta":{{"content":{encode_json(completion.text)}}}',
                    f'"logprobs":{encode_json(logprobs)}',
                ]
                if self._request.return_token_ids:
                    members.append(f'"token_ids":{encode_json(completion.token_ids)}')
                members.append(ending(completion.finish_reason, completion.stop_reason))
                chunks.append(encoder.encode(f"{{{','.join(members)}}}"))
        return chunks

    def _logprobs(self, completion: CompletionOutput) -> dict[str, Any] | None:
        if not self._request.logprobs:
            return None
        count = self._request.top_logprobs or 0
        return chat_logprobs(completion.token_ids, completion.logprobs or [], count=count, names=self._names)


def _reply_role(request: ChatRequest, response_role: str) -> str:
    """Without a new message, the answer goes on with the last one."""
    if request.add_generation_prompt is False and request.messages:
        return request.messages[-1].role
    return response_role


def _last_text(messages: Sequence[ChatMessage], role: str) -> str:
    """The last message's text, if it has this role."""
    if not messages or messages[-1].role != role:
        return ""
    content = messages[-1].content or ""
    if isinstance(content, str):
        return content
    return "\n".join(part if isinstance(part, str) else str(part.get("text") or "") for part in content)
