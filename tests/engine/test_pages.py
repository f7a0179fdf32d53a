import pytest

from jaxllm.engine.pages import PagePool


def test_gives_out_pages_in_order_and_never_page_zero() -> None:
    pool = PagePool(5)
    assert pool.allocate(4) == [1, 2, 3, 4]
    assert pool.num_free == 0


def test_gives_nothing_when_fewer_pages_are_free_than_asked_for() -> None:
    pool = PagePool(4)
    assert pool.allocate(4) is None
    assert pool.free_page_ids == (1, 2, 3)


def test_reuses_the_page_that_is_free_for_longest() -> None:
    pool = PagePool(5)
    assert pool.allocate(3) == [1, 2, 3]
    pool.release([3, 1])
    assert pool.free_page_ids == (4, 3, 1)
    assert pool.allocate(2) == [4, 3]


def test_a_shared_page_becomes_free_with_its_last_reference() -> None:
    pool = PagePool(4)
    pool.allocate(1)
    pool.acquire([1])
    pool.release([1])
    assert (pool.num_references(1), pool.num_used, pool.free_page_ids) == (1, 1, (2, 3))
    pool.release([1])
    assert (pool.num_references(1), pool.num_used, pool.free_page_ids) == (0, 0, (2, 3, 1))


def test_acquire_takes_a_free_page_out_of_the_middle_of_the_list() -> None:
    pool = PagePool(5)
    pool.acquire([2, 3])
    assert pool.free_page_ids == (1, 4)
    assert pool.num_used == 2


def test_refuses_to_release_a_page_twice() -> None:
    pool = PagePool(3)
    with pytest.raises(AssertionError, match="page 1 was released more often than taken"):
        pool.release([1])


def test_refuses_a_pool_without_a_page_to_give() -> None:
    with pytest.raises(AssertionError, match="NO_PAGE and at least one page"):
        PagePool(1)


def test_discarded_pages_are_given_out_next() -> None:
    pool = PagePool(6)
    pool.allocate(4)
    pool.acquire([2])
    pool.release([1])
    pool.discard([2, 3, 4])
    assert pool.num_references(2) == 1
    assert pool.free_page_ids == (4, 3, 5, 1)
