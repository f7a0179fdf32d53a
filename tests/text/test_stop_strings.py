import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.text.stop_strings import StopMatch, StopStrings


def feed_all(stops: StopStrings, pieces: list[str]) -> StopMatch | None:
    return next((match for piece in pieces if (match := stops.feed(piece)) is not None), None)


def test_text_is_cut_before_the_match() -> None:
    assert StopStrings(["END"]).feed("one END two") == StopMatch(stop="END", text_length=4)


def test_the_match_is_kept_if_asked_for_and_what_follows_is_not() -> None:
    assert StopStrings(["END"], include=True).feed("one END two") == StopMatch(stop="END", text_length=7)


def test_a_match_may_be_spread_over_pieces() -> None:
    assert feed_all(StopStrings(["END"]), ["one E", "N", "D two"]) == StopMatch(stop="END", text_length=4)


def test_the_match_that_is_complete_first_wins() -> None:
    assert StopStrings(["bcd", "c"]).feed("abcd") == StopMatch(stop="c", text_length=2)


def test_of_matches_complete_together_the_first_in_the_list_wins() -> None:
    assert StopStrings(["bc", "c"]).feed("abc") == StopMatch(stop="bc", text_length=1)
    assert StopStrings(["c", "bc"]).feed("abc") == StopMatch(stop="c", text_length=2)


def test_overlapping_beginnings_are_not_missed() -> None:
    assert feed_all(StopStrings(["aab"]), ["a", "a", "a", "b"]) == StopMatch(stop="aab", text_length=1)


def test_no_match_ends_below_min_tokens() -> None:
    stops = StopStrings(["END"])
    assert stops.feed("END, E", is_ignored=True) is None
    assert stops.feed("ND") == StopMatch(stop="END", text_length=5)


def test_an_ignored_match_stays_ignored() -> None:
    stops = StopStrings(["END"])
    assert stops.feed("END", is_ignored=True) is None
    assert stops.feed(" more") is None
    assert stops.feed(" END") == StopMatch(stop="END", text_length=9)


def test_what_may_begin_a_match_is_held_back_while_streaming() -> None:
    stops = StopStrings(["ab", "wxyz"])
    assert stops.releasable("0123456789", finished=False) == 7
    assert stops.releasable("01", finished=False) == 0
    assert stops.releasable("0123456789", finished=True) == 10


@pytest.mark.parametrize(("stop", "include"), [([], False), (["x"], False), (["wxyz"], True)])
def test_nothing_is_held_back_where_nothing_is_taken_back(stop: list[str], include: bool) -> None:
    assert StopStrings(stop, include=include).releasable("0123456789", finished=False) == 10


@given(
    text=st.text("abc", max_size=20),
    stop=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    size=st.integers(1, 4),
    include=st.booleans(),
)
def test_pieces_find_what_the_whole_text_has(text: str, stop: list[str], size: int, include: bool) -> None:
    ends = [(text.index(s) + len(s), index) for index, s in enumerate(stop) if s in text]
    expected = None
    if ends:
        end, index = min(ends)
        expected = StopMatch(stop=stop[index], text_length=end if include else end - len(stop[index]))
    stops = StopStrings(stop, include=include)
    released = 0
    for start in range(0, len(text), size):
        so_far = text[: start + size]
        match = stops.feed(text[start : start + size])
        if match is not None:
            assert match == expected
            assert released <= match.text_length
            return
        released = stops.releasable(so_far, finished=False)
    assert expected is None
