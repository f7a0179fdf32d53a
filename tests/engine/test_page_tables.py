from jaxllm.engine.page_tables import PageTables
from jaxllm.engine.request import Request
from tests.engine.helpers import Params, make_internal, make_request


def make_tables(num_pages: int = 9, *, enable_prefix_caching: bool = True) -> PageTables:
    return PageTables(num_pages=num_pages, page_size=4, enable_prefix_caching=enable_prefix_caching)


def with_prompt(prompt: list[int], **options) -> Request:
    return make_internal(make_request("r", prompt, **options))


def compute_all(tables: PageTables, request: Request) -> None:
    request.num_computed_tokens = request.num_tokens
    tables.register(request)


def test_takes_pages_for_the_whole_prompt() -> None:
    tables, request = make_tables(), with_prompt([1] * 9)
    assert tables.take(request, [])
    assert request.page_ids.tolist() == [1, 2, 3]
    assert request.num_computed_tokens == 0


def test_takes_nothing_when_the_prompt_does_not_fit() -> None:
    tables, request = make_tables(3), with_prompt([1] * 9)
    assert not tables.take(request, [])
    assert request.page_ids.tolist() == []
    assert tables.pool.free_page_ids == (1, 2)


def test_leaves_spare_pages_when_asked_to() -> None:
    tables, request = make_tables(5), with_prompt([1] * 9)
    assert not tables.take(request, [], num_spare_pages=2)
    assert tables.take(request, [], num_spare_pages=1)


def test_a_second_request_shares_full_pages_of_a_running_one() -> None:
    tables, first, second = make_tables(), with_prompt([1] * 9), with_prompt([1] * 8 + [2, 3])
    tables.take(first, [])
    compute_all(tables, first)
    assert tables.find_cached(second) == [1, 2]
    assert tables.take(second, [1, 2])
    assert second.page_ids.tolist() == [1, 2, 4]
    assert second.num_computed_tokens == 8
    assert [tables.pool.num_references(page_id) for page_id in (1, 2, 3, 4)] == [2, 2, 1, 1]


def test_leaves_at_least_one_token_to_compute() -> None:
    tables, first, second = make_tables(), with_prompt([1] * 8), with_prompt([1] * 8)
    tables.take(first, [])
    compute_all(tables, first)
    assert tables.find_cached(second) == [1]


def test_registers_only_what_is_computed() -> None:
    tables, first, second = make_tables(), with_prompt([1] * 9), with_prompt([1] * 9)
    tables.take(first, [])
    first.num_computed_tokens = 7
    tables.register(first)
    assert tables.find_cached(second) == [1]


def test_generated_pages_are_found_too() -> None:
    tables, first, second = make_tables(), with_prompt([1, 2, 3]), with_prompt([1, 2, 3, 7, 5])
    tables.take(first, [])
    first.num_computed_tokens = 4
    tables.register(first)
    assert tables.find_cached(second) == []
    first.append_token(7)
    tables.register(first)
    assert tables.find_cached(second) == [1]


def test_freed_pages_are_found_until_they_are_reused_last_page_first() -> None:
    tables, first, second = make_tables(4), with_prompt([1] * 12), with_prompt([1] * 13)
    tables.take(first, [])
    compute_all(tables, first)
    tables.release(first)
    assert tables.pool.free_page_ids == (3, 2, 1)
    assert tables.find_cached(second) == [1, 2, 3]
    tables.take(with_prompt([9]), [])
    assert tables.find_cached(second) == [1, 2]


def test_cached_free_pages_count_as_used_once_taken() -> None:
    tables, first, second = make_tables(4), with_prompt([1] * 12), with_prompt([1] * 13)
    tables.take(first, [])
    compute_all(tables, first)
    tables.release(first)
    assert not tables.take(second, [1, 2, 3])
    assert tables.pool.num_used == 0


def test_salts_are_kept_apart() -> None:
    tables, first = make_tables(), with_prompt([1] * 9, cache_salt="a")
    tables.take(first, [])
    compute_all(tables, first)
    assert tables.find_cached(with_prompt([1] * 9, cache_salt="b")) == []
    assert tables.find_cached(with_prompt([1] * 9)) == []
    assert tables.find_cached(with_prompt([1] * 9, cache_salt="a")) == [1, 2]


def test_a_request_for_prompt_logprobs_writes_the_cache_without_reading_it() -> None:
    tables, first = make_tables(), with_prompt([1] * 9, params=Params(prompt_logprobs=1))
    tables.take(first, [])
    compute_all(tables, first)
    assert tables.find_cached(first) == []
    assert tables.find_cached(with_prompt([1] * 9)) == [1, 2]


def test_nothing_is_cached_when_it_is_off() -> None:
    tables, first = make_tables(enable_prefix_caching=False), with_prompt([1] * 9)
    tables.take(first, [])
    compute_all(tables, first)
    assert tables.find_cached(with_prompt([1] * 9)) == []
    assert first.page_hashes == []


def test_reset_waits_until_no_page_is_held() -> None:
    tables, first = make_tables(), with_prompt([1] * 9)
    tables.take(first, [])
    compute_all(tables, first)
    assert not tables.reset_prefix_cache()
    assert tables.find_cached(with_prompt([1] * 9)) == [1, 2]
    tables.release(first)
    assert tables.reset_prefix_cache()
    assert tables.find_cached(with_prompt([1] * 9)) == []
