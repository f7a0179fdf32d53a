"""The application: routes and middleware over one engine, nothing global."""

from __future__ import annotations

import importlib
import inspect
from typing import Any, cast

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware

from jaxllm import __version__
from jaxllm.async_llm import AsyncJaxLLM
from jaxllm.errors import ValidationError
from jaxllm.server.auth import OPEN_PATHS, ApiKeyMiddleware
from jaxllm.server.body_limit import BodyLimitMiddleware
from jaxllm.server.chat import chat_routes
from jaxllm.server.completions import completion_routes
from jaxllm.server.config import ServerConfig
from jaxllm.server.context import ServerContext
from jaxllm.server.errors import add_error_handlers
from jaxllm.server.health import health_routes
from jaxllm.server.http_metrics import HttpMetrics, HttpMetricsMiddleware
from jaxllm.server.metrics import make_registry, metrics_routes
from jaxllm.server.models import model_routes
from jaxllm.server.paths import RootPathMiddleware
from jaxllm.server.request_ids import RequestIdMiddleware
from jaxllm.server.tokenization import tokenization_routes


def make_app(llm: AsyncJaxLLM, config: ServerConfig) -> FastAPI:
    """The OpenAI API over one engine. Its `state.context` is the `ServerContext`."""
    context = ServerContext.make(llm, config)
    app = FastAPI(
        title="jaxllm",
        version=__version__,
        summary="The OpenAI API over a model in JAX.",
        openapi_url=None if config.disable_fastapi_docs else "/openapi.json",
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.context = context
    registry = make_registry(context)
    for router in (
        completion_routes(context),
        chat_routes(context),
        model_routes(context),
        tokenization_routes(context),
        health_routes(context),
        metrics_routes(registry),
    ):
        app.include_router(router)
    add_error_handlers(app)
    _add_middleware(app, config, registry)
    return app


def describe_routes(app: FastAPI) -> list[str]:
    """One line for each path that answers with data, with its methods."""
    paths = app.openapi()["paths"]
    return [f"{path} ({', '.join(method.upper() for method in methods)})" for path, methods in paths.items()]


def _add_middleware(app: FastAPI, config: ServerConfig, registry: CollectorRegistry) -> None:
    """What is added later sees a request earlier."""
    app.add_middleware(BodyLimitMiddleware, max_bytes=config.max_request_body_size)
    for path in config.middleware:
        _add_users_middleware(app, path)
    if config.api_keys:
        open_paths = OPEN_PATHS | {"/metrics"} if config.public_metrics else OPEN_PATHS
        app.add_middleware(ApiKeyMiddleware, api_keys=config.api_keys, open_paths=open_paths)
    if config.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.allowed_origins,
            allow_credentials=config.allow_credentials,
            allow_methods=config.allowed_methods,
            allow_headers=config.allowed_headers,
        )
    if config.enable_request_id_headers:
        app.add_middleware(RequestIdMiddleware)
    app.add_middleware(HttpMetricsMiddleware, metrics=HttpMetrics(registry))
    if config.root_path:
        app.add_middleware(RootPathMiddleware, root_path=config.root_path)


def _add_users_middleware(app: FastAPI, path: str) -> None:
    middleware = import_middleware(path)
    if inspect.isclass(middleware):
        app.add_middleware(cast("Any", middleware))
    elif inspect.iscoroutinefunction(middleware):
        app.add_middleware(BaseHTTPMiddleware, dispatch=middleware)
    else:
        raise ValidationError(
            f"middleware must name a class or an async function, got {path!r}, which is neither", parameter="middleware"
        )


def import_middleware(path: str) -> Any:
    """What an import path of `ServerConfig.middleware` names."""
    module_name, _, name = path.replace(":", ".").rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValidationError(
            f"middleware must be an import path such as package.module.Name, got {path!r}: {error}",
            parameter="middleware",
        ) from error
