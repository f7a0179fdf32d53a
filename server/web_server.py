"""uvicorn, as this server runs it."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, cast

import uvicorn
from starlette.types import ASGIApp

from jaxllm.server.config import ServerConfig

_TICK_SECONDS = 1.0
_GRACE_SECONDS = 5
"""How long connections may take to end once no request is worked on any more."""


class WebServer(uvicorn.Server):
    """Leaves signals to the caller, and wakes up once a second instead of ten times."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._must_exit = asyncio.Event()

    def stop(self) -> None:
        """Ends `serve`, once the open connections have ended or had their time."""
        self.should_exit = True
        self._must_exit.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        # A counter of 0 renews the Date header.
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._must_exit.wait(), _TICK_SECONDS)


def make_web_server(app: ASGIApp, config: ServerConfig) -> WebServer:
    """Over uvloop and httptools, where these are installed."""
    server = WebServer(
        uvicorn.Config(
            cast(Any, app),
            uds=config.uds,
            http=_http_protocol(),
            ws="none",
            log_level=config.uvicorn_log_level,
            access_log=not config.disable_uvicorn_access_log,
            timeout_keep_alive=config.timeout_keep_alive,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            ssl_keyfile=config.ssl_keyfile,
            ssl_certfile=config.ssl_certfile,
            ssl_ca_certs=config.ssl_ca_certs,
            ssl_cert_reqs=config.ssl_cert_reqs,
            ssl_ciphers=config.ssl_ciphers,
        )
    )
    if config.disable_access_log_for_endpoints:
        logging.getLogger("uvicorn.access").addFilter(_PathFilter(config.disable_access_log_for_endpoints))
    return server


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed; None is asyncio's own."""
    if not _is_installed("uvloop"):
        return None
    import uvloop

    return uvloop.new_event_loop


def _http_protocol() -> type[asyncio.Protocol] | Literal["h11"]:
    """httptools with a limit on heads, where it is installed; h11 has its own limit."""
    if not _is_installed("httptools"):
        return "h11"
    from jaxllm.server.head_limit import HeadLimitProtocol

    return HeadLimitProtocol


class _PathFilter(logging.Filter):
    """Drops the access log's lines about some paths."""

    def __init__(self, paths: Collection[str]) -> None:
        super().__init__()
        self._paths = frozenset(paths)

    def filter(self, record: logging.LogRecord) -> bool:
        arguments = record.args
        if not isinstance(arguments, tuple) or len(arguments) < 3:
            return True
        return str(arguments[2]).partition("?")[0] not in self._paths


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
