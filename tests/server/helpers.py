"""A server over the scripted runner, asked without a network."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx

from jaxllm.async_llm import AsyncJaxLLM
from jaxllm.server.app import make_app
from jaxllm.server.config import ServerConfig
from jaxllm.steps import ScheduledStep
from tests.frontend.helpers import ScriptedRunner, make_async_llm


class Client:
    """Sends requests to an app, each on an event loop of its own."""

    def __init__(self, llm: AsyncJaxLLM, config: ServerConfig) -> None:
        self.llm = llm
        self.app = make_app(llm, config)
        self.context = self.app.state.context

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60) as client:
                return await client.request(method, path, **arguments)

        return asyncio.run(ask())

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        return self.request("GET", path, **arguments)

    def post(self, path: str, body: Any, **arguments: Any) -> httpx.Response:
        return self.request("POST", path, json=body, **arguments)

    def complete(self, prompt: Any, **fields: Any) -> Any:
        """The body of a completion that must succeed."""
        return _body(self.post("/v1/completions", {"prompt": prompt, **fields}))

    def chat(self, content: Any = "hi", **fields: Any) -> Any:
        """The body of an answer that must succeed."""
        return _body(self.post("/v1/chat/completions", chat_body(content, **fields)))

    def complete_stream(self, prompt: Any, **fields: Any) -> list[Any]:
        """The chunks of a streamed completion."""
        return read_events(self.post("/v1/completions", {"prompt": prompt, "stream": True, **fields}))

    def chat_stream(self, content: Any = "hi", **fields: Any) -> list[Any]:
        """The chunks of a streamed answer."""
        return read_events(self.post("/v1/chat/completions", chat_body(content, stream=True, **fields)))

    def refusal(self, path: str, body: Any, status: int = 400, **arguments: Any) -> tuple[str, str | None]:
        """The message and the parameter of an error."""
        response = self.post(path, body, **arguments)
        assert response.status_code == status, response.text
        error = response.json()["error"]
        assert error["code"] == status
        return error["message"], error["param"]


class Pace:
    """An `on_dispatch` that waits until every output so far was read, so that each step gives a chunk of its own."""

    llm: AsyncJaxLLM

    def __call__(self, step: ScheduledStep) -> None:
        deadline = time.monotonic() + 10
        while any(stream._waiting for stream in list(self.llm._thread._streams)):
            assert time.monotonic() < deadline, "nobody reads the outputs"
            time.sleep(0.0002)


def start_client(
    replies: Mapping[str, str] | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    is_paced: bool = True,
    **arguments: Any,
) -> Client:
    """Over a fresh engine; `arguments` are those of `make_llm`. `is_paced` is for readers that stay to the end."""
    pace = Pace()
    runner = ScriptedRunner(replies or {}, on_dispatch=pace if is_paced else None)
    pace.llm = make_async_llm(runner=runner, **arguments)
    return Client(pace.llm, ServerConfig(**(config or {})))


def chat_body(content: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **fields}


def read_events(response: httpx.Response) -> list[Any]:
    """The data of a stream that must have succeeded; the last event must be [DONE]."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done = [block for block in response.text.split("\n\n") if block and not block.startswith(":")]
    assert done == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def joined_text(chunks: list[Any], index: int = 0) -> str:
    """What the chunks of one choice add up to."""
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in choices)


def last_choice(chunks: list[Any], index: int = 0) -> Any:
    """The choice's last chunk."""
    return [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index][-1]


def _body(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()
