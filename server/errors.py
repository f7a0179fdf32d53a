"""From exceptions to HTTP answers: the one place that knows which error has which status."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from jaxllm.errors import EngineDeadError, EngineStalledError, JaxLLMError, ValidationError
from jaxllm.server.disconnect import ClientGoneError

RETRY_AFTER_SECONDS = 1
"""What an answer of 503 tells the client to wait."""
CLIENT_GONE_STATUS = 499
"""Shows in logs and metrics only: nobody reads the answer."""
MAX_REPORTED_ERRORS = 10
MAX_ECHOED_CHARACTERS = 200

_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    413: "RequestTooLargeError",
    500: "InternalServerError",
    501: "NotImplementedError",
    503: "ServiceUnavailableError",
}
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

_echo = reprlib.Repr(maxlevel=3, maxdict=4, maxlist=8, maxstring=MAX_ECHOED_CHARACTERS, maxother=MAX_ECHOED_CHARACTERS)
"""Shortens what a client sent; bodies may be huge, or nested too deep for `repr`."""


class ApiError(JaxLLMError):
    """A request that gets an error as its answer."""

    def __init__(self, status: int, message: str, *, parameter: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.parameter = parameter


class UnknownModelError(ApiError):
    """The request names a model that this server doesn't have."""

    def __init__(self, name: str, served: Sequence[str]) -> None:
        names = ", ".join(repr(one) for one in served)
        super().__init__(
            404, f"the model {_echo.repr(name)} does not exist; this server has {names}", parameter="model"
        )


class UnavailableError(ApiError):
    """The request can't be taken now; the same one may be taken later."""

    def __init__(self, message: str) -> None:
        super().__init__(503, message)


def error_body(status: int, message: str, *, parameter: str | None = None, kind: str | None = None) -> dict[str, Any]:
    """The error object of the OpenAI API."""
    kind = kind or _TYPES.get(status) or HTTPStatus(status).phrase
    return {"error": {"message": _ADDRESS.sub("", message), "type": kind, "param": parameter, "code": status}}


def describe_error(error: BaseException) -> tuple[int, dict[str, Any]]:
    """The status and the body that tell a client about an error; what isn't its business stays in the log."""
    match error:
        case ApiError():
            return error.status, error_body(error.status, str(error), parameter=error.parameter)
        case ValidationError():
            return 400, error_body(400, str(error), parameter=error.parameter)
        case EngineDeadError():
            return 500, error_body(500, "the engine is not running any more")
        case EngineStalledError():
            return 503, error_body(503, "the engine is not making progress")
        case _:
            return 500, error_body(500, "internal error; the server's log tells more")


def json_response(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON. Whatever can't be encoded is escaped, so that an error about it can still be told."""
    content = json.dumps(body, separators=(",", ":")).encode()
    return Response(content, status_code=status, headers=headers, media_type="application/json")


def error_response(error: BaseException) -> Response:
    """The whole answer to a request that failed."""
    status, body = describe_error(error)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else None
    return json_response(status, body, headers)


def add_error_handlers(app: FastAPI) -> None:
    """Makes the app answer errors of all kinds with the error object."""

    async def on_error(request: Request, error: Exception) -> Response:
        return error_response(error)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), "registered for HTTPException"
        return json_response(error.status_code, error_body(error.status_code, str(error.detail)), error.headers)

    async def on_wrong_body(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError), "registered for RequestValidationError"
        message, parameter = describe_validation(error.errors())
        return json_response(400, error_body(400, message, parameter=parameter, kind="Bad Request"))

    async def on_client_gone(request: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_GONE_STATUS)

    app.add_exception_handler(ClientGoneError, on_client_gone)
    app.add_exception_handler(JaxLLMError, on_error)
    app.add_exception_handler(Exception, on_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_wrong_body)


def describe_validation(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """One message for what is wrong with a body, and the dotted path of the first wrong field."""
    if errors and errors[0]["type"] == "json_invalid":
        return f"the body is not valid JSON: {errors[0].get('ctx', {}).get('error', 'it ends early')}", None
    lines = [_describe_one(error) for error in errors[:MAX_REPORTED_ERRORS]]
    if len(errors) > MAX_REPORTED_ERRORS:
        lines.append(f"and {len(errors) - MAX_REPORTED_ERRORS} more")
    return "; ".join(lines), _path(errors[0]) if errors else None


def _describe_one(error: Mapping[str, Any]) -> str:
    path = _path(error)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{path or 'the body'} is required"
    return f"{path or 'the body'}: {message}, got {_shorten(_echo.repr(error.get('input')))}"


def _path(error: Mapping[str, Any]) -> str | None:
    return ".".join(str(part) for part in error["loc"] if part != "body") or None


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_ECHOED_CHARACTERS else f"{text[: MAX_ECHOED_CHARACTERS - 3]}..."
