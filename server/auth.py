"""API keys: every route but those that say whether the server lives asks for one."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from jaxllm.server.errors import json_response
from jaxllm.server.paths import route_path

OPEN_PATHS = frozenset(("/health", "/ready", "/ping", "/version"))
"""Served to everyone: load balancers ask them."""


class ApiKeyMiddleware:
    """Answers 401 to requests without one of the keys."""

    def __init__(self, app: ASGIApp, api_keys: Sequence[str], open_paths: Collection[str]) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in api_keys]
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._is_open(scope) or self._has_key(scope):
            await self._app(scope, receive, send)
            return
        response = json_response(401, {"error": "Unauthorized"}, {"WWW-Authenticate": "Bearer"})
        await response(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        return scope.get("method") == "OPTIONS" or route_path(scope) in self._open_paths

    def _has_key(self, scope: Scope) -> bool:
        """Looks at every key, so that the time tells nothing about them."""
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        given = _digest(token.strip().encode("latin-1"))
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(matches)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
