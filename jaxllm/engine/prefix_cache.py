"""Which page holds the KV entries of which tokens, so that requests with a common beginning share pages."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b, sha256

import numpy as np


def root_hash(cache_salt: str | None) -> bytes:
    """The hash that a sequence's first page is chained to; sequences with different salts share nothing."""
    # Another hash function than for pages, so that no salt can be made that stands for some page's tokens.
    return bytes(32) if cache_salt is None else blake2b(cache_salt.encode(), digest_size=32).digest()


def extend_page_hashes(
    hashes: list[bytes], root: bytes, token_ids: np.ndarray, page_size: int, num_full_pages: int
) -> None:
    """Appends to `hashes` until it covers `num_full_pages` full pages of `token_ids` (int32 [tokens]).

    A page's hash covers all tokens before it as well, through its parent's hash, because KV entries depend on them.
    """
    parent = hashes[-1] if hashes else root
    for index in range(len(hashes), num_full_pages):
        page = token_ids[index * page_size : (index + 1) * page_size]
        parent = sha256(parent + page.tobytes()).digest()
        hashes.append(parent)


class PrefixCache:
    """Maps hashes of full pages to pages.

    It holds no references: a cached page may be free in the pool, and whoever gives out such a page for new
    content must `forget` it here.
    """

    def __init__(self) -> None:
        self._page_by_hash: dict[bytes, int] = {}
        self._hash_by_page: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._page_by_hash)

    def holds_page(self, page_id: int) -> bool:
        """Whether the page can be found here, so that several requests may come to hold it."""
        return page_id in self._hash_by_page

    def find(self, hashes: Iterable[bytes]) -> list[int]:
        """The pages of the longest cached beginning of the chain `hashes`."""
        page_ids: list[int] = []
        for page_hash in hashes:
            page_id = self._page_by_hash.get(page_hash)
            if page_id is None:
                break
            page_ids.append(page_id)
        return page_ids

    def insert(self, page_hash: bytes, page_id: int) -> None:
        """Makes the page findable; does nothing when another page with the same tokens is already."""
        if page_hash not in self._page_by_hash:
            self._page_by_hash[page_hash] = page_id
            self._hash_by_page[page_id] = page_hash

    def forget(self, page_ids: Iterable[int]) -> None:
        """Drops pages that are about to get new content."""
        for page_id in page_ids:
            page_hash = self._hash_by_page.pop(page_id, None)
            if page_hash is not None:
                del self._page_by_hash[page_hash]

    def clear(self) -> None:
        """Forgets every page."""
        self._page_by_hash.clear()
        self._hash_by_page.clear()
