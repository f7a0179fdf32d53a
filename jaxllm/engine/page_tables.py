"""Gives requests their pages: from the prefix cache where it has them, else from the pool."""

from __future__ import annotations

from collections import Counter

import numpy as np

from jaxllm.engine.beam_search import Beam
from jaxllm.engine.pages import PagePool
from jaxllm.engine.prefix_cache import PrefixCache, extend_page_hashes
from jaxllm.engine.request import Request
from jaxllm.steps import BeamSelection


class PageTables:
    """The page tables of all requests, over one pool.

    A page becomes findable for other requests when it is full, a dispatched step computes it, and the host knows
    its tokens. Findable pages are never written again while they are findable.
    """

    def __init__(self, *, num_pages: int, page_size: int, enable_prefix_caching: bool) -> None:
        self.page_size = page_size
        self.pool = PagePool(num_pages)
        self.prefix_cache = PrefixCache() if enable_prefix_caching else None

    def find_cached(self, request: Request) -> list[int]:
        """Cached pages that the request could begin with, always leaving at least one token to compute."""
        if self.prefix_cache is None or not request.reads_prefix_cache:
            return []
        num_pages = (request.num_tokens - 1) // self.page_size
        return self.prefix_cache.find(self.hashes(request, num_pages)[:num_pages])

    def take(self, request: Request, cached_page_ids: list[int], *, num_spare_pages: int = 0) -> bool:
        """Gives the request all pages of its known tokens, the cached ones first.

        False when that would leave fewer than `num_spare_pages` free. The whole prompt must fit although only a
        chunk may be computed now: otherwise requests that are admitted together could run out of pages halfway,
        and all their work would be lost.
        """
        num_new = -(-request.num_tokens // self.page_size) - len(cached_page_ids)
        num_cached_free = sum(self.pool.num_references(page_id) == 0 for page_id in cached_page_ids)
        if num_new + num_cached_free + num_spare_pages > self.pool.num_free:
            return False
        self.pool.acquire(cached_page_ids)
        new_page_ids = self._allocate(num_new)
        assert new_page_ids is not None, "the free pages were counted wrongly"
        request.set_pages(cached_page_ids + new_page_ids)
        request.num_computed_tokens = len(cached_page_ids) * self.page_size
        request.num_registered_pages = len(cached_page_ids)
        return True

    def extend(self, request: Request) -> bool:
        """Gives the request one more page; False when none is free."""
        page_ids = self._allocate(1)
        if page_ids is None:
            return False
        request.append_page(page_ids[0])
        return True

    def advance_search(self, request: Request, selection: BeamSelection) -> None:
        """Moves a search on by one token, and hands the pages of its beams on to their children.

        The first time, the pages of the prompt go to the first beam. What is left to the request are the full ones,
        which no beam writes: beams hold references to the pages behind those only.
        """
        search = request.search
        assert search is not None, f"request {request.request_id} is no beam search"
        if not search.beams:
            search.start(request.page_ids)
            request.keep_pages(request.num_prompt_tokens // self.page_size)
        parents = search.beams
        search.advance(selection)
        self._fork(request, parents, selection.parents.tolist())

    def make_writable(self, request: Request) -> list[tuple[int, int]] | None:
        """Gives each live beam a page of its own for its last token; None, and nothing done, when pages are lacking.

        A page that beams share stays with the last of them; the others get copies. Returns the (source, destination)
        pages to copy before the token is computed.
        """
        search = request.search
        assert search is not None, f"request {request.request_id} is no beam search"
        position = request.num_prompt_tokens + search.num_generated - 1
        index, offset = divmod(position, self.page_size)
        last_page_ids = [int(beam.page_ids[index]) for beam in search.beams] if offset else []
        num_new = len(search.beams) - len(set(last_page_ids))
        new_page_ids = self._allocate(num_new)
        if new_page_ids is None:
            return None
        copies: list[tuple[int, int]] = []
        for place, beam in enumerate(search.beams):
            if offset and self.pool.num_references(last_page_ids[place]) == 1:
                continue
            new_page_id = new_page_ids.pop(0)
            if offset:
                copies.append((last_page_ids[place], new_page_id))
                self.pool.discard([last_page_ids[place]])
            page_ids = np.empty(index + 1, np.int32)
            page_ids[:index] = beam.page_ids[:index]
            page_ids[index] = new_page_id
            search.beams[place] = Beam(beam.node, beam.score, page_ids)
        assert not new_page_ids, "pages were taken that no beam needs"
        return copies

    def release(self, request: Request) -> None:
        """Takes all pages back, the last first: a beginning is more likely to be asked for again than an end."""
        if request.search is not None:
            self._fork(request, request.search.beams, [])
            request.search.reset()
        self.pool.release(reversed(request.page_ids.tolist()))
        request.set_pages(())
        request.num_computed_tokens = 0

    def register(self, request: Request) -> None:
        """Puts the request's pages that became full and known into the prefix cache."""
        num_tokens = min(request.num_computed_tokens, request.num_tokens)
        num_registered = request.num_registered_pages
        if self.prefix_cache is None or num_tokens < (num_registered + 1) * self.page_size:
            return
        num_full = num_tokens // self.page_size
        hashes = self.hashes(request, num_full)
        for index in range(num_registered, num_full):
            self.prefix_cache.insert(hashes[index], int(request.page_ids[index]))
        request.num_registered_pages = num_full

    def hashes(self, request: Request, num_full_pages: int) -> list[bytes]:
        """The hashes of at least the first `num_full_pages` pages of the request's known tokens."""
        if len(request.page_hashes) < num_full_pages:
            extend_page_hashes(
                request.page_hashes, request.cache_root, request.token_ids, self.page_size, num_full_pages
            )
        return request.page_hashes

    def reset_prefix_cache(self) -> bool:
        """Forgets all cached pages; False, and nothing done, while requests hold pages."""
        if self.pool.num_used > 0:
            return False
        if self.prefix_cache is not None:
            self.prefix_cache.clear()
        return True

    def _fork(self, request: Request, parents: list[Beam], chosen: list[int]) -> None:
        """Gives each beam's pages one holder per child, of which `chosen` names the parents.

        What beams generate is never in the prefix cache, so without children their pages are worth nothing.
        """
        num_children = Counter(chosen)
        for index, parent in enumerate(parents):
            page_ids = parent.page_ids[len(request.page_ids) :].tolist()
            for _ in range(num_children[index] - 1):
                self.pool.acquire(page_ids)
            if num_children[index] == 0:
                self.pool.discard(reversed(page_ids))

    def _allocate(self, count: int) -> list[int] | None:
        page_ids = self.pool.allocate(count)
        if page_ids is not None and self.prefix_cache is not None:
            self.prefix_cache.forget(page_ids)
        return page_ids
