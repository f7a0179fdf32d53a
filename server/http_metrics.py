"""Counts HTTP requests and their times, by route."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxllm.server.paths import route_path

UNCOUNTED_PATHS = frozenset(("/metrics", "/health", "/ready", "/ping", "/version", "/load"))
"""Asked every few seconds by machines."""

_BUCKETS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class HttpMetrics:
    """The metrics of one server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("method", "status", "handler")
        self.requests = Counter("http_requests", "HTTP requests.", labels, registry=registry)
        self.duration = Histogram(
            "http_request_duration_seconds",
            "From the request to the end of the answer.",
            ("method", "handler"),
            buckets=_BUCKETS,
            registry=registry,
        )


class HttpMetricsMiddleware:
    """Counts every request that passes."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_path(scope) in UNCOUNTED_PATHS:
            await self._app(scope, receive, send)
            return
        status = 500

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        try:
            await self._app(scope, receive, noting_status)
        finally:
            # The router writes the route into the scope; paths that no route has share one name.
            handler = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(scope["method"], f"{status // 100}xx", handler).inc()
            self._metrics.duration.labels(scope["method"], handler).observe(time.perf_counter() - started)
