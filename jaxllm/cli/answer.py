"""An answer on its way to the terminal."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Message = Mapping[str, str]
"""One turn of a conversation: role and content."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What came last of an answer."""

    text: str = ""
    reasoning: str = ""
    """Thoughts that a server keeps apart from the answer."""
    num_tokens: int | None = None
    """Tokens of the whole answer so far, where that is known."""


class AnswerSource(Protocol):
    """A model, be it in this process or behind a server. Closing a generator aborts its request."""

    def chat(self, messages: Sequence[Message]) -> Generator[Piece]:
        """The next turn of a conversation."""
        ...

    def complete(self, prompt: str) -> Generator[Piece]:
        """What follows a text."""
        ...

    def close(self) -> None:
        """Frees what the source holds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer that was printed."""

    text: str
    """Without the thoughts."""
    was_interrupted: bool
    """Whether Ctrl-C ended it."""
    num_tokens: int | None
    first_token_seconds: float | None
    """From asking to the first text; None if none came."""
    seconds: float

    def statistics(self) -> str:
        """Time to first token, number of tokens, and their rate after the first."""
        if self.first_token_seconds is None:
            return f"[no tokens in {self.seconds:.2f} s]"
        parts = [f"time to first token {1000 * self.first_token_seconds:.0f} ms"]
        if self.num_tokens is not None:
            parts.append(f"{self.num_tokens} tokens")
            decode_seconds = self.seconds - self.first_token_seconds
            if self.num_tokens > 1 and decode_seconds > 0:
                parts.append(f"{(self.num_tokens - 1) / decode_seconds:.1f} tokens/s")
        return f"[{', '.join(parts)}]"


def print_answer(pieces: Generator[Piece]) -> Answer:
    """Prints the pieces as they come; Ctrl-C ends the answer, not the program."""
    start = time.perf_counter()
    first_token_seconds: float | None = None
    num_tokens: int | None = None
    was_interrupted = False
    printer = _Printer()
    try:
        for piece in pieces:
            if first_token_seconds is None and (piece.text or piece.reasoning):
                first_token_seconds = time.perf_counter() - start
            num_tokens = num_tokens if piece.num_tokens is None else piece.num_tokens
            printer.print(piece)
    except KeyboardInterrupt:
        was_interrupted = True
    finally:
        pieces.close()
        printer.end()
    return Answer(
        text="".join(printer.texts),
        was_interrupted=was_interrupted,
        num_tokens=num_tokens,
        first_token_seconds=first_token_seconds,
        seconds=time.perf_counter() - start,
    )


class _Printer:
    """Writes pieces at once, with think tags around the thoughts."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._is_thinking = False
        self._has_written = False

    def print(self, piece: Piece) -> None:
        if piece.reasoning:
            self._write("" if self._is_thinking else "<think>\n", piece.reasoning)
            self._is_thinking = True
        if piece.text:
            self._end_thoughts()
            self._write(piece.text)
            self.texts.append(piece.text)

    def end(self) -> None:
        self._end_thoughts()
        if self._has_written:
            self._write("\n")

    def _end_thoughts(self) -> None:
        if self._is_thinking:
            self._write("\n</think>\n")
        self._is_thinking = False

    def _write(self, *texts: str) -> None:
        self._has_written = True
        print(*texts, sep="", end="", flush=True)
