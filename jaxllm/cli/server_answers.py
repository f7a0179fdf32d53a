"""Answers from a server that speaks OpenAI's protocol, through the official client."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from jaxllm.cli.answer import Message, Piece
from jaxllm.errors import JaxLLMError, ValidationError

DEFAULT_URL = "http://localhost:8000/v1"
API_KEY_VARIABLES = ("OPENAI_API_KEY", "JAXLLM_API_KEY")


class ServerError(JaxLLMError):
    """A server can't be reached, or refuses a request."""


def find_api_key(given: str | None) -> str:
    """The key to send: the given one, else the environment's, else "EMPTY", which open servers take."""
    found = (given, *(os.environ.get(name) for name in API_KEY_VARIABLES))
    return next((key for key in found if key), "EMPTY")


class ServerAnswers:
    """A model behind a server; `sampling` are fields of the requests."""

    def __init__(self, *, url: str, model_name: str | None, api_key: str | None, **sampling: Any) -> None:
        from openai import OpenAI

        self._url = url
        self._client = OpenAI(base_url=url, api_key=find_api_key(api_key), max_retries=0)
        self._sampling = sampling
        self.model_name = model_name or self._first_model()

    def chat(self, messages: Sequence[Message]) -> Generator[Piece]:
        """The next turn of a conversation."""
        for chunk in self._stream(self._client.chat.completions, messages=list(messages)):
            delta = chunk.choices[0].delta if chunk.choices else None
            yield Piece(
                text=getattr(delta, "content", None) or "",
                reasoning=getattr(delta, "reasoning", None) or getattr(delta, "reasoning_content", None) or "",
                num_tokens=_num_tokens(chunk),
            )

    def complete(self, prompt: str) -> Generator[Piece]:
        """What follows a text."""
        for chunk in self._stream(self._client.completions, prompt=prompt):
            text = chunk.choices[0].text if chunk.choices else ""
            yield Piece(text=text or "", num_tokens=_num_tokens(chunk))

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()

    def _first_model(self) -> str:
        with self._explained():
            models = self._client.models.list().data
        if not models:
            raise ServerError(f"the server at {self._url} offers no model")
        return models[0].id

    def _stream(self, endpoint: Any, **request: Any) -> Iterator[Any]:
        with self._explained():
            stream = endpoint.create(
                model=self.model_name,
                stream=True,
                stream_options={"include_usage": True},
                **request,
                **self._sampling,
            )
        with stream, self._explained(is_connected=True):
            yield from stream

    @contextmanager
    def _explained(self, *, is_connected: bool = False) -> Iterator[None]:
        """Turns the client's exceptions into one line each."""
        import openai

        try:
            yield
        except openai.APITimeoutError:
            raise ServerError(f"the server at {self._url} did not answer in time") from None
        except openai.APIConnectionError as error:
            cause = _root_cause(error)
            if is_connected:
                raise ServerError(f"lost the connection to the server at {self._url} ({cause})") from None
            hint = "`jaxllm serve MODEL` starts one, --url names another"
            raise ServerError(f"no connection to a server at {self._url} ({cause}); {hint}") from None
        except openai.APIStatusError as error:
            raise self._as_error(error.status_code, _message(error)) from None
        except openai.APIError as error:
            raise ServerError(f"the server at {self._url} failed: {error.message}") from None

    def _as_error(self, status: int, message: str) -> JaxLLMError:
        if status == 401:
            hint = f"give the right one with --api-key or in {API_KEY_VARIABLES[0]}"
            return ServerError(f"the server at {self._url} refuses the API key (HTTP 401: {message}); {hint}")
        if status == 404:
            hint = "check --model-name, and that --url ends in /v1"
            return ServerError(f"the server at {self._url} knows no such thing (HTTP 404: {message}); {hint}")
        kind = ValidationError if status in (400, 422) else ServerError
        return kind(f"the server at {self._url} refuses the request (HTTP {status}: {message})")


def _num_tokens(chunk: Any) -> int | None:
    return None if chunk.usage is None else cast("int", chunk.usage.completion_tokens)


def _message(error: Any) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message)


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
