"""The pages of a beam search: shared while they are full, copied before they are written."""

from __future__ import annotations

from jaxllm.engine.page_tables import PageTables
from jaxllm.engine.request import Request
from tests.engine.beam_helpers import make_selection
from tests.engine.helpers import make_internal, make_request


def start_search(num_prompt_tokens: int, num_pages: int = 20) -> tuple[PageTables, Request]:
    """A search with three beams whose prompt is computed, four tokens a page."""
    tables = PageTables(num_pages=num_pages, page_size=4, enable_prefix_caching=True)
    request = make_internal(make_request("r", [1] * num_prompt_tokens, beam_width=3))
    tables.take(request, [])
    request.num_computed_tokens = num_prompt_tokens
    tables.register(request)
    return tables, request


def advance(tables: PageTables, request: Request, *parents: int) -> list[tuple[int, int]] | None:
    tables.advance_search(request, make_selection(*[(parent, 5, -1.0) for parent in parents]))
    return tables.make_writable(request)


def pages_of(request: Request) -> list[list[int]]:
    assert request.search is not None
    return [beam.page_ids.tolist() for beam in request.search.beams]


def test_a_partly_filled_page_of_the_prompt_is_copied_for_all_beams_but_one() -> None:
    tables, request = start_search(6)
    assert advance(tables, request, 0, 0, 0) == [(2, 3), (2, 4)]
    assert pages_of(request) == [[1, 3], [1, 4], [1, 2]]
    assert request.page_ids.tolist() == [1]
    assert [tables.pool.num_references(page_id) for page_id in (1, 2, 3, 4)] == [1, 1, 1, 1]


def test_beams_after_a_full_page_get_pages_of_their_own() -> None:
    tables, request = start_search(8)
    assert advance(tables, request, 0, 0, 0) == []
    assert pages_of(request) == [[1, 2, 3], [1, 2, 4], [1, 2, 5]]


def test_children_of_one_parent_share_its_full_pages() -> None:
    tables, request = start_search(3)
    advance(tables, request, 0, 0, 0)
    advance(tables, request, 0, 0, 1)
    assert pages_of(request) == [[2, 1], [2, 4], [3, 5]]
    assert tables.pool.num_references(2) == 2


def test_beams_without_children_give_their_pages_back_at_once() -> None:
    tables, request = start_search(6)
    advance(tables, request, 0, 0, 0)
    assert advance(tables, request, 1, 1, 1) == [(4, 2), (4, 3)]
    assert pages_of(request) == [[1, 2], [1, 3], [1, 4]]
    assert tables.pool.num_used == 4


def test_a_beam_with_one_child_copies_nothing() -> None:
    tables, request = start_search(5)
    advance(tables, request, 0, 0, 0)
    before = pages_of(request)
    assert advance(tables, request, 2, 0, 1) == []
    assert pages_of(request) == [before[2], before[0], before[1]]


def test_nothing_is_taken_when_pages_are_lacking() -> None:
    tables, request = start_search(6, num_pages=4)
    assert advance(tables, request, 0, 0, 0) is None
    assert pages_of(request) == [[1, 2]] * 3
    assert tables.pool.num_free == 1


def test_tables_given_out_before_keep_their_content() -> None:
    tables, request = start_search(6)
    advance(tables, request, 0, 0, 0)
    assert request.search is not None
    given_out = [beam.page_ids for beam in request.search.beams]
    advance(tables, request, 0, 0, 0)
    assert [page_ids.tolist() for page_ids in given_out] == [[1, 3], [1, 4], [1, 2]]


def test_release_takes_everything() -> None:
    tables, request = start_search(6)
    advance(tables, request, 0, 0, 0)
    advance(tables, request, 0, 0, 1)
    tables.release(request)
    assert tables.pool.num_used == 0
    assert request.search is not None
    assert (request.search.beams, request.search.num_generated) == ([], 0)


def test_what_beams_generate_is_not_found_in_the_prefix_cache() -> None:
    tables, request = start_search(6)
    advance(tables, request, 0, 0, 0)
    for _ in range(8):
        advance(tables, request, 0, 1, 2)
    tables.release(request)
    assert tables.prefix_cache is not None
    assert len(tables.prefix_cache) == 1
    assert tables.pool.free_page_ids[-1] == 1  # the prompt's full page is given out last
