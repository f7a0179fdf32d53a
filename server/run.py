"""A server from start to end: load, serve, drain, and the exit status that tells how it went."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fastapi import FastAPI

from jaxllm.async_llm import AsyncJaxLLM
from jaxllm.config import EngineConfig
from jaxllm.log import set_up_logging
from jaxllm.server.app import describe_routes, import_middleware, make_app
from jaxllm.server.config import ServerConfig
from jaxllm.server.context import ServerContext
from jaxllm.server.listening import address, bind, check_certificate
from jaxllm.server.web_server import WebServer, loop_factory, make_web_server

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
DEATH_GRACE_SECONDS = 5.0
"""How long a server with a dead engine still tells clients and load balancers so."""
_ABORT_SECONDS = 2.0
"""How long aborted requests may take to tell their clients."""


def serve(engine_config: EngineConfig, server_config: ServerConfig) -> int:
    """Serves until a signal comes or the engine dies; the exit status of the process. Needs the main thread.

    The first SIGTERM or SIGINT lets running requests finish and the status is 0; a second one, or one while the model
    still loads, exits at once. After the engine's death the status is 1.
    """
    set_up_logging()
    check_certificate(server_config)
    for path in server_config.middleware:
        import_middleware(path)
    bound = bind(server_config)
    try:
        with _exiting_at_signals():
            llm = AsyncJaxLLM.from_engine_args(engine_config)
            try:
                if llm.tokenizer is not None:
                    llm.get_tokenizer()  # the first chat shall not wait for transformers to be imported
                app = make_app(llm, server_config)
                with asyncio.Runner(loop_factory=loop_factory()) as runner:
                    return runner.run(_Serving(app, bound).run())
            finally:
                llm.shutdown()
    finally:
        if bound is not None:
            bound.close()


@contextmanager
def _exiting_at_signals() -> Iterator[None]:
    """Signals end the process at once: a model that loads can't be interrupted otherwise."""
    previous = {number: signal.signal(number, _exit) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None = None) -> None:
    logger.warning("Exiting at once: %s", signal.Signals(number).name)
    logging.shutdown()
    os._exit(128 + number)


class _Serving:
    """The serving part, on the event loop."""

    def __init__(self, app: FastAPI, bound: socket.socket | None) -> None:
        self._app = app
        self._bound = bound
        self._context: ServerContext = app.state.context

    async def run(self) -> int:
        """The exit status."""
        self._must_stop = asyncio.Event()
        self._is_dead = asyncio.Event()
        self._watch_engine()
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        server = make_web_server(self._app, self._context.config)
        serving = asyncio.create_task(server.serve(None if self._bound is None else [self._bound]))
        await self._announce(server, serving)
        status = await self._wait_for_end(serving)
        server.stop()
        await serving
        logger.info("Stopped")
        return status

    def _watch_engine(self) -> None:
        loop = asyncio.get_running_loop()
        llm = self._context.llm

        def on_death(error: BaseException) -> None:
            loop.call_soon_threadsafe(self._is_dead.set)

        llm.on_death.append(on_death)
        if llm.is_dead:
            self._is_dead.set()

    def _on_signal(self, number: int) -> None:
        if self._must_stop.is_set():
            _exit(number)
        logger.info("%s: shutting down; a second signal exits at once", signal.Signals(number).name)
        self._must_stop.set()

    async def _announce(self, server: WebServer, serving: asyncio.Task[None]) -> None:
        """Tells what is served once it is."""
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if serving.done():
            return
        context = self._context
        for line in describe_routes(self._app):
            logger.info("Route: %s", line)
        logger.info("Sampling where requests say nothing: %s", _describe_defaults(context))
        names = ", ".join(context.llm.config.names)
        logger.info("Serving %s on %s", names, address(context.config, self._bound))

    async def _wait_for_end(self, serving: asyncio.Task[None]) -> int:
        stopping = asyncio.create_task(self._must_stop.wait())
        dying = asyncio.create_task(self._is_dead.wait())
        ends: set[asyncio.Task[bool] | asyncio.Task[None]] = {stopping, serving}
        if not self._context.config.keep_alive_on_engine_death:
            ends.add(dying)
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self._is_dead.is_set():
            logger.critical("The engine is dead: the server ends in %g s", DEATH_GRACE_SECONDS)
            await asyncio.wait((stopping,), timeout=DEATH_GRACE_SECONDS)
        elif stopping.done():
            await self._drain()
        stopping.cancel()
        dying.cancel()
        return 1 if self._is_dead.is_set() or not self._must_stop.is_set() else 0

    async def _drain(self) -> None:
        """Lets open requests finish; those that take too long end with finish_reason "abort"."""
        admission = self._context.admission
        timeout = self._context.config.shutdown_timeout
        admission.is_draining = True
        if admission.num_requests:
            logger.info("Waiting up to %g s for %d request(s)", timeout, admission.num_requests)
        if not await admission.wait_until_idle(timeout):
            logger.warning("Aborting %d request(s)", admission.num_requests)
            await self._context.llm.abort(list(admission.engine_names))
            await admission.wait_until_idle(_ABORT_SECONDS)


def _describe_defaults(context: ServerContext) -> str:
    """The effective values: users wonder where a temperature comes from."""
    recommended = dict(context.defaults.values)
    if not recommended:
        return "temperature 1.0, nothing from the model's generation_config"
    values = ", ".join(f"{name} {value}" for name, value in recommended.items())
    return f"{values} (from generation_config; --generation-config jaxllm does without)"
