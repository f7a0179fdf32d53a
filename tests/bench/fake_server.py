"""A server that speaks as much of OpenAI's protocol as clients need, and answers from a script."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(kw_only=True)
class FakeServer:
    """What the server does and what it was asked; `serving` runs it."""

    tokens: Sequence[str] | None = None
    """The pieces of every answer; None is `max_tokens` times " tok"."""
    tokens_by_request: dict[int, Sequence[str]] = field(default_factory=dict)
    """Pieces of single answers, by number of the request."""
    reasoning: Sequence[str] = ()
    """Thoughts before the answers of chats."""
    models: Sequence[str] = ("fake",)
    api_key: str | None = None
    tokens_per_chunk: int = 1
    gives_usage: bool = True
    takes_token_ids: bool = True
    failures: dict[int, tuple[int, str]] = field(default_factory=dict)
    """HTTP status and message by number of the request, from 0."""
    cut_after: dict[int, int] = field(default_factory=dict)
    """Chunks after which the connection is dropped, by number of the request."""
    error_after: dict[int, int] = field(default_factory=dict)
    """Chunks after which the stream brings an error, by number of the request."""
    says_done: bool = True
    """Whether streams end as the protocol asks."""
    chunk_seconds: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    max_running: int = 0
    """Most requests that ran at once."""
    num_running: int = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/models", self.list_models)
        app.router.add_post("/v1/completions", self.complete)
        app.router.add_post("/v1/chat/completions", self.complete)
        return app

    async def list_models(self, request: web.Request) -> web.Response:
        if refusal := self.refuse_key(request):
            return refusal
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    def refuse_key(self, request: web.Request) -> web.Response | None:
        if self.api_key is None or request.headers.get("Authorization") == f"Bearer {self.api_key}":
            return None
        return error_response(401, "wrong key")

    async def complete(self, request: web.Request) -> web.StreamResponse:
        if refusal := self.refuse_key(request):
            return refusal
        number = len(self.bodies)
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if number in self.failures:
            return error_response(*self.failures[number])
        if body["model"] not in self.models:
            return error_response(404, f"The model `{body['model']}` does not exist.")
        if not self.takes_token_ids and isinstance(body.get("prompt"), list):
            return error_response(400, "prompt must be a string")
        self.num_running += 1
        self.max_running = max(self.max_running, self.num_running)
        try:
            return await self.stream(request, number, body)
        finally:
            self.num_running -= 1

    async def stream(self, request: web.Request, number: int, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        is_chat = "messages" in body
        max_tokens = body.get("max_tokens") or body.get("max_completion_tokens") or 16
        tokens = list(self.tokens_by_request.get(number, self.tokens or [" tok"] * max_tokens))
        pieces = ["".join(tokens[i : i + self.tokens_per_chunk]) for i in range(0, len(tokens), self.tokens_per_chunk)]
        deltas = [{"reasoning": text} for text in self.reasoning] + [{"content": text} for text in pieces]
        if is_chat:
            await send(response, chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}}]))
        for index, delta in enumerate(deltas):
            if self.cut_after.get(number) == index:
                assert request.transport is not None
                request.transport.abort()
                return response
            if self.error_after.get(number) == index:
                await send(response, {"error": {"message": "the engine died", "code": 500}})
                return response
            await asyncio.sleep(self.chunk_seconds)
            choice = {"index": 0, "delta": delta} if is_chat else {"index": 0, "text": delta["content"]}
            if body.get("return_token_ids"):
                choice["token_ids"] = [index]
            await send(response, chunk([{**choice, "finish_reason": None}]))
        if self.gives_usage and (body.get("stream_options") or {}).get("include_usage"):
            num_prompt = num_prompt_tokens(body)
            usage = {"prompt_tokens": num_prompt, "completion_tokens": len(tokens), "total_tokens": 0}
            await send(response, chunk([]) | {"usage": usage})
        if self.says_done:
            await response.write(b"data: [DONE]\n\n")
        return response


def chunk(choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": "x", "object": "chunk", "created": 0, "model": "fake", "choices": choices}


def num_prompt_tokens(body: dict[str, Any]) -> int:
    prompt = body.get("prompt", "")
    return len(prompt) if isinstance(prompt, list) else len(str(prompt).split())


async def send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(event)}\n\n".encode())


def error_response(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "x", "code": status}}, status=status)


@contextmanager
def serving(server: FakeServer) -> Iterator[str]:
    """The base URL (without /v1) of the server, which runs in a thread."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(server.app(), shutdown_timeout=0.1)

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        [address] = runner.addresses
        return int(address[1])

    port = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
