"""The requests that callers wait for: whose ids are taken, and how much work stands behind them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass

from jaxllm.errors import ValidationError
from jaxllm.validation import fail


@dataclass(kw_only=True, eq=False, slots=True)
class OpenRequest:
    """One request, from the first time its caller asks for an output until it ends or the caller goes."""

    request_id: str
    num_sequences: int
    num_prompt_tokens: int = 0
    """0 until the prompt is tokenised."""
    is_aborted: bool = False
    """Whether its end was asked for."""


class OpenRequests:
    """Counts the open requests; any thread may ask and change."""

    def __init__(self) -> None:
        self._requests: dict[str, OpenRequest] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._on_empty: list[Callable[[], None]] = []
        self.num_sequences = 0
        """Sequences of all open requests."""
        self.num_prompt_tokens = 0
        """Prompt tokens of all open requests."""

    def open(self, request_id: str | None, num_sequences: int) -> OpenRequest:
        """Takes the id, or the next number that is free."""
        if request_id is not None and not isinstance(request_id, str):
            raise fail("request_id", "a string", request_id)
        with self._lock:
            if request_id is None:
                request_id = next(number for number in map(str, self._numbers) if number not in self._requests)
            elif request_id in self._requests:
                raise ValidationError(
                    f"request_id {request_id!r} belongs to a running request already", parameter="request_id"
                )
            request = OpenRequest(request_id=request_id, num_sequences=num_sequences)
            self._requests[request_id] = request
            self.num_sequences += num_sequences
        return request

    def count_prompt(self, request: OpenRequest, num_tokens: int) -> None:
        """Says how long the prompt of an open request is."""
        with self._lock:
            if self._requests.get(request.request_id) is request:
                request.num_prompt_tokens = num_tokens
                self.num_prompt_tokens += num_tokens

    def close(self, request: OpenRequest) -> None:
        """Frees the id and forgets the work; a second call does nothing."""
        with self._lock:
            if self._requests.get(request.request_id) is not request:
                return
            del self._requests[request.request_id]
            self.num_sequences -= request.num_sequences
            self.num_prompt_tokens -= request.num_prompt_tokens
            callbacks, self._on_empty = ([], self._on_empty) if self._requests else (self._on_empty, [])
        for callback in callbacks:
            callback()

    def mark_aborted(self, request_id: str) -> None:
        """Remembers that the request shall end; unknown ids are ignored."""
        with self._lock:
            if request_id in self._requests:
                self._requests[request_id].is_aborted = True

    def call_when_empty(self, callback: Callable[[], None]) -> None:
        """Calls back once, from any thread, when no request is open; now, if that is so already."""
        with self._lock:
            if self._requests:
                self._on_empty.append(callback)
                return
        callback()
