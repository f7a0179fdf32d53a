"""A limit on what a client may send, before anything reads it."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxllm.server.errors import error_body, json_response


class BodyLimitMiddleware:
    """Answers 413 to bodies that are too long, by their header or by what comes."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._announces_too_much(scope):
            # The rest is not read, so the connection is of no more use.
            response = json_response(413, error_body(413, self._message), {"Connection": "close"})
            await response(scope, receive, send)
        else:
            await self._app(scope, self._counting(receive), send)

    @property
    def _message(self) -> str:
        return f"the body must have at most {self._max_bytes} bytes"

    def _announces_too_much(self, scope: Scope) -> bool:
        length = Headers(scope=scope).get("content-length", "")
        return length.isascii() and length.isdigit() and int(length[:20]) > self._max_bytes

    def _counting(self, receive: Receive) -> Receive:
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            if message["type"] == "http.request":
                num_bytes += len(message.get("body", b""))
                if num_bytes > self._max_bytes:
                    raise HTTPException(413, self._message, {"Connection": "close"})
            return message

        return counted
