"""Finds stop strings in text that arrives piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StopMatch:
    """A stop string that the text reached."""

    stop: str
    """The stop string, as the request gave it."""
    text_length: int
    """How many characters of the text are to be kept."""


class StopStrings:
    """The stop strings of one sequence and how far its text was searched.

    The match that is complete first wins; of several complete at the same character, the first in the list.
    """

    def __init__(self, stop: Sequence[str], include: bool = False) -> None:
        assert all(stop), "a stop string is empty"
        self._stop = tuple(stop)
        self._includes_stop = include
        self._max_tail = max(map(len, self._stop), default=1) - 1
        self._tail = ""
        self._num_characters = 0

    def feed(self, new_text: str, is_ignored: bool = False) -> StopMatch | None:
        """Takes the next piece of text. `is_ignored` is for text below min_tokens, in which no match may end."""
        if not self._stop or not new_text:
            return None
        searched = self._tail + new_text
        searched_from = self._num_characters - len(self._tail)
        match = None if is_ignored else self._find_first(searched, len(self._tail))
        self._num_characters += len(new_text)
        self._tail = searched[-self._max_tail :] if self._max_tail else ""
        if match is None:
            return None
        end, stop = match
        kept = end if self._includes_stop else end - len(stop)
        return StopMatch(stop=stop, text_length=searched_from + kept)

    def releasable(self, text: str, finished: bool) -> int:
        """How many characters of `text` a stream may hand out: none that a later match would take back."""
        if finished or self._includes_stop:
            return len(text)
        return max(0, len(text) - self._max_tail)

    def _find_first(self, text: str, num_old: int) -> tuple[int, str] | None:
        """End and string of the first match that ends after the first `num_old` characters."""
        best: tuple[int, str] | None = None
        for stop in self._stop:
            start = text.find(stop, max(0, num_old - len(stop) + 1))
            if start >= 0 and (best is None or start + len(stop) < best[0]):
                best = (start + len(stop), stop)
        return best
