"""Requests that wait for a slot and pages, in the order in which they will get them."""

from __future__ import annotations

from heapq import heappop, heappush

from jaxllm.engine.request import Request


class WaitingQueue:
    """A heap by `Request.order`, so a preempted request returns to the place it had before."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[float, ...], Request]] = []
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    def push(self, request: Request) -> None:
        """Adds a request; `order` is unique, so requests themselves are never compared."""
        heappush(self._heap, (request.order, request))
        self._num_waiting += 1

    def peek(self) -> Request | None:
        """The request whose turn it is."""
        while self._heap and self._heap[0][1].is_finished:
            heappop(self._heap)
        return self._heap[0][1] if self._heap else None

    def pop(self) -> Request:
        """Takes out the request that `peek` shows."""
        request = self.peek()
        assert request is not None, "pop from an empty queue"
        heappop(self._heap)
        self._num_waiting -= 1
        return request

    def discard(self, request: Request) -> None:
        """Stops counting a request that is finished now; its entry goes when it comes up."""
        assert request.is_finished, f"request {request.request_id} is not finished"
        self._num_waiting -= 1
