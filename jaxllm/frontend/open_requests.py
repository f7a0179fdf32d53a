"""The requests that callers wait for: whose ids are taken, and how much work stands behind them."""

from __future__ import annotations

import itertools
import threading
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
        self._by_id: dict[str, OpenRequest] = {}
        self._all: set[OpenRequest] = set()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self.num_sequences = 0
        """Sequences of all open requests."""
        self.num_prompt_tokens = 0
        """Prompt tokens of all open requests."""

    def __len__(self) -> int:
        return len(self._all)

    def open(self, request_id: str | None, num_sequences: int) -> OpenRequest:
        """Takes the id, or the next number that is free."""
        if request_id is not None and not isinstance(request_id, str):
            raise fail("request_id", "a string", request_id)
        with self._lock:
            if request_id is None:
                request_id = next(number for number in map(str, self._numbers) if number not in self._by_id)
            elif request_id in self._by_id:
                raise ValidationError(
                    f"request_id {request_id!r} belongs to a running request already", parameter="request_id"
                )
            request = OpenRequest(request_id=request_id, num_sequences=num_sequences)
            self._by_id[request_id] = request
            self._all.add(request)
            self.num_sequences += num_sequences
        return request

    def count_prompt(self, request: OpenRequest, num_tokens: int) -> None:
        """Says how long the prompt of an open request is."""
        with self._lock:
            if request in self._all:
                request.num_prompt_tokens = num_tokens
                self.num_prompt_tokens += num_tokens

    def free_id(self, request: OpenRequest) -> None:
        """Lets another request have the id, while the engine may still have to end this one."""
        with self._lock:
            self._free_id(request)

    def close(self, request: OpenRequest) -> None:
        """Forgets a request that ended; a second call does nothing."""
        with self._lock:
            if request not in self._all:
                return
            self._free_id(request)
            self._all.remove(request)
            self.num_sequences -= request.num_sequences
            self.num_prompt_tokens -= request.num_prompt_tokens

    def mark_aborted(self, request_id: str) -> None:
        """Remembers that the request shall end; unknown ids are ignored."""
        with self._lock:
            if request_id in self._by_id:
                self._by_id[request_id].is_aborted = True

    def _free_id(self, request: OpenRequest) -> None:
        if self._by_id.get(request.request_id) is request:
            del self._by_id[request.request_id]
