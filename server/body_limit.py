"""A limit on what a client may send, before anything keeps it."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxllm.server.errors import error_body, json_response

_DISCARDED_BODIES = 8
"""A body of up to so many times the limit is read and thrown away: a client that can't send hears no answer."""


class BodyLimitMiddleware:
    """Answers 413 to bodies that are too long, by their header or by what comes."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._message = f"the body must have at most {max_bytes} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._announces_too_much(scope):
            headers = await self._discard(receive, 0)
            await json_response(413, error_body(413, self._message), headers)(scope, receive, send)
        else:
            await self._app(scope, self._counting(receive), send)

    def _announces_too_much(self, scope: Scope) -> bool:
        length = Headers(scope=scope).get("content-length", "")
        return length.isascii() and length.isdigit() and int(length[:20]) > self._max_bytes

    def _counting(self, receive: Receive) -> Receive:
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                headers = await self._discard(receive, num_bytes) if message.get("more_body") else None
                raise HTTPException(413, self._message, headers)
            return message

        return counted

    async def _discard(self, receive: Receive, num_bytes: int) -> dict[str, str] | None:
        """Reads the rest of the body; if that is too much, the connection is of no more use, say the headers."""
        has_more = True
        while has_more:
            if num_bytes > _DISCARDED_BODIES * self._max_bytes:
                return {"Connection": "close"}
            message = await receive()
            num_bytes += len(message.get("body", b""))
            has_more = message.get("more_body", False)
        return None
