"""Whether the server lives and takes requests, for load balancers and people."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from jaxllm import __version__
from jaxllm.server.context import ServerContext
from jaxllm.server.errors import UnavailableError


def health_routes(context: ServerContext) -> APIRouter:
    """The endpoints over one engine."""
    router = APIRouter(tags=["health"])

    @router.get("/health")
    async def health() -> Response:
        """200 while the engine makes progress, or has nothing to do; 503 when it is dead or stalled."""
        return _check(context, must_take_requests=False)

    @router.get("/ready")
    async def ready() -> Response:
        """The same, and 503 once the server is shutting down."""
        return _check(context, must_take_requests=True)

    @router.get("/ping")
    async def ping() -> Response:
        """The same as /health."""
        return _check(context, must_take_requests=False)

    @router.post("/ping")
    async def post_ping() -> Response:
        """The same as /health."""
        return _check(context, must_take_requests=False)

    @router.get("/version")
    async def version() -> dict[str, str]:
        """The version of jaxllm."""
        return {"version": __version__}

    @router.get("/load")
    async def load() -> dict[str, int]:
        """How many requests are being answered."""
        return {"server_load": context.admission.num_requests}

    return router


def _check(context: ServerContext, *, must_take_requests: bool) -> Response:
    try:
        context.llm.check_health()
    except Exception as error:
        raise UnavailableError(f"the engine is not well: {type(error).__name__}") from error
    if must_take_requests and context.admission.is_draining:
        raise UnavailableError("the server is shutting down")
    return Response(status_code=200)
