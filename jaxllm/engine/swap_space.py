"""Host pages: where keys and values of preempted requests wait until they run again."""

from __future__ import annotations

from jaxllm.engine.request import Request


class SwapSpace:
    """Gives preempted requests host pages for what they have computed, as far as there are any.

    What found no place is computed again, so a request may come back with a beginning only.
    """

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._num_pages = 0
        self._free: list[int] = []
        self._requests: dict[str, Request] = {}
        """Those that have host pages."""
        self._pending: dict[int, int] = {}
        """Pages to be saved by the next step, by host page."""

    @property
    def num_used(self) -> int:
        """Host pages that requests have."""
        return self._num_pages - len(self._free)

    def grow(self, num_pages: int) -> None:
        """Makes host pages up to `num_pages` available."""
        if num_pages > self._num_pages:
            self._free += range(self._num_pages, num_pages)
            self._num_pages = num_pages

    def save(self, request: Request) -> None:
        """Has the pages of a request that loses them copied before the next step, as many as have a place."""
        num_wanted = -(-request.num_computed_tokens // self._page_size)
        num_pages = min(num_wanted, len(self._free))
        if num_pages == 0:
            return
        request.host_page_ids = [self._free.pop() for _ in range(num_pages)]
        request.num_saved_tokens = min(request.num_computed_tokens, num_pages * self._page_size)
        self._pending.update(zip(request.host_page_ids, request.page_ids[:num_pages].tolist(), strict=True))
        self._requests[request.request_id] = request

    def take_saves(self) -> tuple[tuple[int, int], ...]:
        """(page, host page) that the next step must copy first."""
        saves = tuple((page_id, host_page_id) for host_page_id, page_id in self._pending.items())
        self._pending.clear()
        return saves

    def load(self, request: Request) -> list[tuple[int, int]]:
        """(host page, page) to copy for a request that has pages again, and counts what comes with them as computed.

        Pages that came from the prefix cache are not copied. The host pages are free for what later steps save; a step
        copies what it saves first, so what is loaded may have been saved by the same one.
        """
        num_cached_pages = request.num_computed_tokens // self._page_size
        page_ids = request.page_ids[num_cached_pages : len(request.host_page_ids)].tolist()
        moves = list(zip(request.host_page_ids[num_cached_pages:], page_ids, strict=True))
        request.num_computed_tokens = max(request.num_computed_tokens, request.num_saved_tokens)
        self._take_back(request)
        return moves

    def drop(self, request: Request) -> None:
        """Takes a request's host pages back, if it has any."""
        for host_page_id in request.host_page_ids:
            self._pending.pop(host_page_id, None)
        self._take_back(request)

    def clear(self) -> None:
        """Takes all host pages back: what they hold is not valid any more."""
        for request in list(self._requests.values()):
            self.drop(request)

    def _take_back(self, request: Request) -> None:
        self._requests.pop(request.request_id, None)
        self._free += request.host_page_ids
        request.host_page_ids = []
        request.num_saved_tokens = 0
