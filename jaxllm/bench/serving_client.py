"""Streams answers from a server and notes when their tokens came. Made to cost the machine little."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp

from jaxllm.bench.event_lines import DONE, EventLines
from jaxllm.bench.serving_requests import ServingRequest
from jaxllm.errors import JaxLLMError

TIMEOUT_SECONDS = 6 * 3600
"""A request at the end of a long queue may take that long."""
KEEP_ALIVE_SECONDS = 2.0
"""Less than servers keep idle connections, so that none is closed just when it is used again."""


@dataclass(frozen=True, kw_only=True)
class ServingEndpoint:
    """Where requests go, and what all of them say."""

    url: str
    is_chat: bool
    """Whether the prompts are sent as a user's message."""
    fields: Mapping[str, Any]
    """Model, sampling, and whatever else stands in the body of every request."""
    headers: Mapping[str, str]

    def body(self, request: ServingRequest) -> dict[str, Any]:
        """What is sent for a request."""
        options = {"stream": True, "stream_options": {"include_usage": True}}
        if self.is_chat:
            messages = [{"role": "user", "content": request.prompt}]
            own: dict[str, Any] = {"messages": messages, "max_completion_tokens": request.output_len}
        else:
            own = {"prompt": request.prompt, "max_tokens": request.output_len}
        return {**own, **options, **self.fields}


@dataclass(kw_only=True)
class ServedRequest:
    """What became of a request; times are of `time.perf_counter`."""

    request: ServingRequest
    start: float
    token_times: list[float] = field(default_factory=list)
    """When each chunk with tokens came."""
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    """The answer's tokens, if the endpoint's fields ask for them with return_token_ids."""
    usage: Mapping[str, Any] | None = None
    """The server's own count of tokens."""
    error: str | None = None
    """Why it failed; None of a request that was answered to the end."""

    @property
    def ttft(self) -> float:
        """Seconds to the first token; 0 if none came."""
        return self.token_times[0] - self.start if self.token_times else 0.0

    @property
    def latency(self) -> float:
        """Seconds to the last token; 0 if none came."""
        return self.token_times[-1] - self.start if self.token_times else 0.0

    @property
    def inter_token_latencies(self) -> list[float]:
        """Seconds between chunks."""
        return [after - before for before, after in zip(self.token_times, self.token_times[1:], strict=False)]

    @property
    def text(self) -> str:
        """The whole answer, thoughts included."""
        return "".join(self.texts)

    @property
    def prompt_len(self) -> int:
        """Tokens of the prompt, as the server counts them if it does."""
        return int((self.usage or {}).get("prompt_tokens") or self.request.prompt_len or 0)

    def take(self, event: Mapping[str, Any], now: float) -> None:
        """Notes what an event of the stream brought."""
        if event.get("usage"):
            self.usage = event["usage"]
        for choice in event.get("choices") or ():
            delta = choice.get("delta")
            text = choice.get("text") if delta is None else _delta_text(delta)
            if delta and delta.get("role") and not text:
                continue  # the first chunk of a chat, which says who speaks and nothing more
            self.token_times.append(now)
            self.texts.append(text or "")
            self.token_ids += choice.get("token_ids") or ()


class ServingClient:
    """Sends requests over kept-alive connections; as many at once as the caller starts."""

    def __init__(self, endpoint: ServingEndpoint) -> None:
        self._endpoint = endpoint
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            headers={"Content-Type": "application/json", **endpoint.headers},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, request: ServingRequest) -> ServedRequest:
        """Sends a request and reads its answer to the end; a failure is noted, not raised."""
        body = json.dumps(self._endpoint.body(request)).encode()
        served = ServedRequest(request=request, start=time.perf_counter())
        try:
            served.error = await self._read(body, served)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            served.error = f"{type(error).__name__}: {error}"
        return served

    async def _read(self, body: bytes, served: ServedRequest) -> str | None:
        """Fills `served`; gives the reason if the server didn't answer to the end."""
        async with self._session.post(self._endpoint.url, data=body) as response:
            if response.status != 200:
                return f"HTTP {response.status}: {_error_message(await response.text())}"
            lines = EventLines()
            async for data in response.content.iter_any():
                now = time.perf_counter()
                for line in lines.feed(data):
                    if line == DONE:
                        return None if served.token_times else "the stream brought no tokens"
                    event = json.loads(line)
                    if "error" in event:
                        return _error_message(line.decode())
                    served.take(event, now)
        return f"the stream ended before {DONE.decode()}"


def _delta_text(delta: Mapping[str, Any]) -> str:
    return "".join(delta.get(name) or "" for name in ("reasoning", "reasoning_content", "content"))


def _error_message(text: str) -> str:
    """The message inside an error body, or the beginning of whatever else came."""
    try:
        error = json.loads(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return text[:200]


async def list_models(base_url: str, headers: Mapping[str, str]) -> list[str]:
    """The models that a server offers."""
    url = f"{base_url}/v1/models"
    try:
        async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as response:
            text = await response.text()
    except (aiohttp.ClientError, OSError) as error:
        raise JaxLLMError(f"no server at {base_url} ({error}); `jaxllm serve MODEL` starts one") from None
    if response.status != 200:
        raise JaxLLMError(f"{url} answered HTTP {response.status}: {_error_message(text)}")
    try:
        return [str(model["id"]) for model in json.loads(text)["data"]]
    except (ValueError, KeyError, TypeError):
        raise JaxLLMError(f"{url} gave no list of models but {text[:200]!r}") from None
