"""The pool of KV pages: who holds each page, and which page is given out next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from jaxllm.steps import NO_PAGE


class PagePool:
    """Counts the references to each page; a page without references waits in the free list.

    The free list is ordered by the time a page became free, oldest first, and pages are given out from that
    end. A free page keeps its content until it is given out, so the prefix cache can still `acquire` it. Pages whose
    content nobody can ask for again are better given back to that end as well (`discard`).
    """

    def __init__(self, num_pages: int) -> None:
        assert num_pages >= 2, f"a pool needs NO_PAGE and at least one page to give, got {num_pages} pages"
        self.num_pages = num_pages
        self._num_references = [0] * num_pages
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(NO_PAGE + 1, num_pages))

    @property
    def num_free(self) -> int:
        """Pages that `allocate` could give out now, those with cached content included."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Pages with at least one reference."""
        return self.num_pages - 1 - len(self._free)

    @property
    def usage(self) -> float:
        """Share of the pages with at least one reference."""
        return self.num_used / (self.num_pages - 1)

    @property
    def free_page_ids(self) -> tuple[int, ...]:
        """The free list, next page to be given out first."""
        return tuple(self._free)

    def num_references(self, page_id: int) -> int:
        """How many requests hold the page."""
        return self._num_references[page_id]

    def allocate(self, count: int) -> list[int] | None:
        """Takes the `count` pages that are free for longest, or none at all when fewer are free."""
        if count > len(self._free):
            return None
        page_ids = [self._free.popitem(last=False)[0] for _ in range(count)]
        for page_id in page_ids:
            self._num_references[page_id] = 1
        return page_ids

    def acquire(self, page_ids: Iterable[int]) -> None:
        """Adds a reference to each page, taking it out of the free list if nobody held it."""
        for page_id in page_ids:
            if self._num_references[page_id] == 0:
                del self._free[page_id]
            self._num_references[page_id] += 1

    def release(self, page_ids: Iterable[int]) -> None:
        """Drops a reference to each page; those nobody holds any more join the free list in the order given."""
        for page_id in page_ids:
            self._drop(page_id)

    def discard(self, page_ids: Iterable[int]) -> None:
        """The same for pages that are not worth keeping: those that nobody holds any more are given out next."""
        for page_id in page_ids:
            if self._drop(page_id):
                self._free.move_to_end(page_id, last=False)

    def _drop(self, page_id: int) -> bool:
        """Drops a reference; True if it was the last."""
        assert self._num_references[page_id] > 0, f"page {page_id} was released more often than taken"
        self._num_references[page_id] -= 1
        if self._num_references[page_id] > 0:
            return False
        self._free[page_id] = None
        return True
