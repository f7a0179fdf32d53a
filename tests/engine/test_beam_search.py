"""A beam search on the host: which beams end, and which win."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from jaxllm.engine.beam_search import BeamSearch, most_pages
from jaxllm.steps import BeamSettings
from tests.engine.beam_helpers import make_selection

INFINITE = float("inf")


def make_search(width: int = 2, *, end_ids: Sequence[int] = (), length_penalty: float = 1.0) -> BeamSearch:
    search = BeamSearch(BeamSettings(width=width, length_penalty=length_penalty), frozenset(end_ids))
    search.start(np.array([1], np.int32))
    return search


def results(search: BeamSearch) -> list[tuple[tuple[int, ...], float, bool]]:
    return [(beam.token_ids, beam.cum_logprob, beam.is_stopped) for beam in search.results()]


def test_beams_continue_their_parents() -> None:
    search = make_search()
    search.advance(make_selection((0, 5, -1.0), (0, 6, -2.0)))
    search.advance(make_selection((1, 7, -2.5), (0, 8, -3.0)))
    assert results(search) == [((6, 7), -2.5, False), ((5, 8), -3.0, False)]
    assert [beam.last_token_id for beam in search.beams] == [7, 8]


def test_each_token_has_the_candidates_of_its_parent() -> None:
    search = make_search()
    search.advance(make_selection((0, 5, -1.0), (0, 6, -2.0)))
    search.advance(make_selection((1, 7, -2.5), candidates=[[(1, -1.0)], [(7, -0.5)]]))
    (beam,) = search.results()
    assert [entry.token_ids.tolist() for entry in beam.candidates] == [[1, 2], [7]]
    assert [entry.ranks.tolist() for entry in beam.candidates] == [[1, 2], [1]]


def test_end_tokens_end_beams_with_their_own_score() -> None:
    search = make_search(end_ids=[9])
    search.advance(make_selection((0, 5, -1.0), candidates=[[(5, -1.0), (9, -1.5)]]))
    search.advance(make_selection((0, 6, -4.0), candidates=[[(9, -0.5), (6, -3.0)]]))
    assert results(search) == [((5, 9), -1.5, True), ((9,), -1.5, True)]


def test_tokens_that_may_not_be_drawn_end_no_beam() -> None:
    search = make_search(end_ids=[9])
    search.advance(make_selection((0, 5, -1.0), candidates=[[(5, -1.0), (9, -INFINITE)]]))
    assert results(search) == [((5,), -1.0, False)]


@pytest.mark.parametrize(("length_penalty", "best"), [(0.0, (9,)), (1.0, (9,)), (2.0, (5, 6))])
def test_length_penalty_divides_scores_by_lengths(length_penalty: float, best: tuple[int, ...]) -> None:
    search = make_search(width=1, end_ids=[9], length_penalty=length_penalty)
    search.advance(make_selection((0, 5, -1.0), candidates=[[(9, -1.0), (5, -1.0)]]))
    search.advance(make_selection((0, 6, -2.5)))
    assert search.results()[0].token_ids == best


def test_equal_results_come_in_the_order_in_which_they_ended() -> None:
    search = make_search(width=3, end_ids=[8, 9])
    search.advance(make_selection((0, 5, -1.0), candidates=[[(9, -1.0), (8, -1.0), (5, -1.0)]]))
    assert [tokens for tokens, _, _ in results(search)] == [(9,), (8,), (5,)]


def test_only_the_best_ended_beams_are_kept() -> None:
    search = make_search(width=1, end_ids=[8, 9])
    search.advance(make_selection(candidates=[[(8, -2.0), (9, -1.0)]]))
    assert results(search) == [((9,), -1.0, True)]


def test_a_search_without_proposals_ends_with_what_it_has() -> None:
    search = make_search()
    search.advance(make_selection((0, 5, -1.0)))
    search.advance(make_selection(candidates=[[(0, -INFINITE)]]))
    assert search.beams == []
    assert results(search) == [((5,), -1.0, False)]


@pytest.mark.parametrize(
    ("num_prompt_tokens", "num_tokens", "width", "num_pages"),
    [(8, 12, 3, 2 + 3), (7, 12, 3, 1 + 3 * 2), (8, 9, 3, 2), (5, 6, 3, 1 + 3), (8, 14, 2, 2 + 2 * 2)],
)
def test_most_pages(num_prompt_tokens: int, num_tokens: int, width: int, num_pages: int) -> None:
    """The prompt's full pages once, and for each beam the pages behind them that hold all tokens but the last."""
    assert most_pages(num_prompt_tokens, num_tokens, width, page_size=4) == num_pages
