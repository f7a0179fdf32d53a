import numpy as np

from jaxllm.engine.prefix_cache import PrefixCache, extend_page_hashes, root_hash


def page_hashes(token_ids: list[int], *, salt: str | None = None) -> list[bytes]:
    hashes: list[bytes] = []
    extend_page_hashes(hashes, root_hash(salt), np.array(token_ids, np.int32), 2, len(token_ids) // 2)
    return hashes


def test_only_full_pages_have_a_hash() -> None:
    assert len(page_hashes([1, 2, 3])) == 1


def test_hashes_of_common_pages_agree_until_the_first_difference() -> None:
    first, second = page_hashes([1, 2, 3, 4, 5, 6]), page_hashes([1, 2, 9, 4, 5, 6])
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert first[2] != second[2]


def test_extending_continues_the_chain() -> None:
    hashes = page_hashes([1, 2])
    extend_page_hashes(hashes, root_hash(None), np.array([1, 2, 3, 4], np.int32), 2, 2)
    assert hashes == page_hashes([1, 2, 3, 4])


def test_salts_separate_all_pages() -> None:
    hashes = [*page_hashes([1, 2, 3, 4]), *page_hashes([1, 2, 3, 4], salt="a"), *page_hashes([1, 2, 3, 4], salt="b")]
    assert len(set(hashes)) == 6


def test_an_empty_salt_is_a_salt() -> None:
    assert page_hashes([1, 2], salt="") != page_hashes([1, 2])


def test_a_salt_that_spells_a_page_does_not_stand_for_it() -> None:
    page = np.array([0x61616161, 0x61616161], np.int32)
    assert root_hash((bytes(32) + page.tobytes()).decode()) != page_hashes(page.tolist())[0]


def test_finds_the_longest_cached_beginning() -> None:
    cache = PrefixCache()
    hashes = page_hashes([1, 2, 3, 4, 5, 6])
    cache.insert(hashes[0], 7)
    cache.insert(hashes[2], 9)
    assert cache.find(hashes) == [7]
    cache.insert(hashes[1], 8)
    assert cache.find(hashes) == [7, 8, 9]


def test_the_first_of_two_equal_pages_stays() -> None:
    cache = PrefixCache()
    (page_hash,) = page_hashes([1, 2])
    cache.insert(page_hash, 3)
    cache.insert(page_hash, 4)
    assert cache.find([page_hash]) == [3]
    assert not cache.holds_page(4)


def test_forgets_pages_that_get_new_content() -> None:
    cache = PrefixCache()
    hashes = page_hashes([1, 2, 3, 4])
    cache.insert(hashes[0], 3)
    cache.insert(hashes[1], 4)
    cache.forget([4, 5])
    assert cache.find(hashes) == [3]
    assert len(cache) == 1


def test_clear_forgets_everything() -> None:
    cache = PrefixCache()
    hashes = page_hashes([1, 2])
    cache.insert(hashes[0], 3)
    cache.clear()
    assert cache.find(hashes) == []
    assert not cache.holds_page(3)
