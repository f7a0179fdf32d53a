"""Names of requests: the client's, or a random one."""

from __future__ import annotations

import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxllm.errors import ValidationError

REQUEST_ID_HEADER = "X-Request-Id"
MAX_REQUEST_ID_LENGTH = 256


def choose_request_id(headers: Headers, from_body: str | None) -> str:
    """The header's, else the body's, else a random one."""
    chosen = headers.get(REQUEST_ID_HEADER) or from_body
    if not chosen:
        return uuid.uuid4().hex
    if len(chosen) > MAX_REQUEST_ID_LENGTH:
        raise ValidationError(
            f"request_id must have at most {MAX_REQUEST_ID_LENGTH} characters, got {len(chosen)}",
            parameter="request_id",
        )
    return chosen


class RequestIdMiddleware:
    """Puts the request's X-Request-Id, or a random one, on the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        if REQUEST_ID_HEADER not in headers:
            headers[REQUEST_ID_HEADER] = uuid.uuid4().hex
        request_id = headers[REQUEST_ID_HEADER]

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)
