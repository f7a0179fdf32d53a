"""Bodies must be JSON and say so."""

from __future__ import annotations

from fastapi import Request

from jaxllm.server.errors import ApiError


async def require_json(request: Request) -> None:
    """Raises for a request whose content type is another."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(400, f"Unsupported Media Type: expected application/json, got {content_type[:100]!r}")
