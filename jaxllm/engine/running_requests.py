"""The requests that run, and what they hold meanwhile: pages for their tokens, and a slot for each row of a step."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from operator import attrgetter

from jaxllm.engine.metrics import EngineCounters
from jaxllm.engine.page_tables import PageTables
from jaxllm.engine.request import Request, RequestStatus
from jaxllm.engine.slots import SlotPool
from jaxllm.engine.swap_space import SwapSpace
from jaxllm.engine.waiting_queue import WaitingQueue


class RunningRequests:
    """In `Request.order`. When one needs a page and none is free, the last one loses what it holds and waits again.

    A search that is preempted loses all its beams, and later starts again from its prompt.
    """

    def __init__(
        self,
        *,
        page_tables: PageTables,
        swap_space: SwapSpace,
        waiting: WaitingQueue,
        max_num_seqs: int,
        counters: EngineCounters,
    ) -> None:
        self.slots = SlotPool(max_num_seqs)
        self._requests: list[Request] = []
        self._page_tables = page_tables
        self._swap_space = swap_space
        self._waiting = waiting
        self._counters = counters

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        """In order. A preemption meanwhile takes from the end only, so it skips nobody."""
        return iter(self._requests)

    def start(self, request: Request) -> None:
        """Gives a request that has its pages its slots; there must be enough."""
        request.status = RequestStatus.RUNNING
        self.slots.take(request)
        insort(self._requests, request, key=attrgetter("order"))

    def end(self, request: Request) -> None:
        """Takes everything back from a request that is finished."""
        self._requests.remove(request)
        self._release(request)

    def extend(self, request: Request) -> bool:
        """Finds the request a page, at the cost of the last one; False when that is the request itself."""
        while not self._page_tables.extend(request):
            if not self._preempt_last(request):
                return False
        return True

    def unshare(self, request: Request) -> list[tuple[int, int]] | None:
        """Finds pages for the beams of a search to write to, at the cost of the last ones.

        Gives the (source, destination) pages to copy; None when the search itself is the last one.
        """
        while (page_copies := self._page_tables.make_writable(request)) is None:
            if not self._preempt_last(request):
                return None
        return page_copies

    def preempt_all(self) -> None:
        """Takes everything from all of them, and keeps nothing of what they have computed."""
        while self._requests:
            self._preempt(self._requests.pop())

    def _preempt_last(self, request: Request) -> bool:
        """Preempts the last one, and keeps what it has computed where there is place; False when it is `request`."""
        victim = self._requests.pop()
        if victim.search is None:
            self._swap_space.save(victim)
            self._counters.num_saved_tokens += victim.num_saved_tokens
        self._preempt(victim)
        return victim is not request

    def _preempt(self, request: Request) -> None:
        """Takes everything from a request; what the swap space does not hold of it will be computed again.

        A token still in flight is not lost: the scheduler appends it as if nothing had happened, and does not admit the
        request before.
        """
        assert request.status is RequestStatus.RUNNING, f"request {request.request_id} does not run"
        request.status = RequestStatus.PREEMPTED
        request.num_preemptions += 1
        self._counters.num_preemptions += 1
        self._release(request)
        self._waiting.push(request)

    def _release(self, request: Request) -> None:
        self._page_tables.release(request)
        self.slots.give_back(request)
