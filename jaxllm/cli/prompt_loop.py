"""What a user types, line by line, and what `jaxllm chat` and `jaxllm complete` do with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

from jaxllm.cli.answer import Answer, AnswerSource, Message, print_answer
from jaxllm.errors import JaxLLMError

CHAT_HELP = """\
/clear   forget the conversation
/exit    end (or Ctrl-D)
/help    this list
Ctrl-C ends a running answer."""

COMPLETE_HELP = """\
/exit    end (or Ctrl-D)
/help    this list
Ctrl-C ends a running completion."""


class Conversation:
    """The turns so far, under an optional system prompt."""

    def __init__(self, source: AnswerSource, *, system_prompt: str | None, shows_statistics: bool) -> None:
        self._source = source
        self._system: list[Message] = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        self._shows_statistics = shows_statistics
        self.messages: list[Message] = list(self._system)

    def clear(self) -> None:
        """Forgets all turns but keeps the system prompt."""
        self.messages = list(self._system)

    def ask(self, text: str) -> Answer:
        """Prints the answer and remembers both turns, unless nothing came.

        An answer that was interrupted is remembered as far as it came.
        """
        asked: list[Message] = [*self.messages, {"role": "user", "content": text}]
        answer = print_answer(self._source.chat(asked))
        if answer.text or not answer.was_interrupted:
            self.messages = [*asked, {"role": "assistant", "content": answer.text}]
        print_statistics(answer, is_wanted=self._shows_statistics)
        return answer

    def run(self) -> None:
        """Reads and answers lines until the input ends."""
        commands = {"/clear": self.clear, "/help": lambda: print(CHAT_HELP)}
        for line in read_lines(commands):
            try_to(lambda line=line: self.ask(line))  # type: ignore[misc]


def run_completions(source: AnswerSource, *, shows_statistics: bool) -> None:
    """Reads and completes lines until the input ends."""
    for line in read_lines({"/help": lambda: print(COMPLETE_HELP)}):
        try_to(lambda line=line: complete(source, line, shows_statistics=shows_statistics))  # type: ignore[misc]


def complete(source: AnswerSource, prompt: str, *, shows_statistics: bool) -> Answer:
    """Prints what follows a text."""
    answer = print_answer(source.complete(prompt))
    print_statistics(answer, is_wanted=shows_statistics)
    return answer


def try_to(action: Callable[[], object]) -> None:
    """Prints a request's error and lets the session go on."""
    try:
        action()
    except JaxLLMError as error:
        print(f"error: {error}", file=sys.stderr)


def print_statistics(answer: Answer, *, is_wanted: bool) -> None:
    """On standard error, so that only the answer goes into a pipe."""
    if is_wanted:
        print(answer.statistics(), file=sys.stderr)


def read_lines(commands: dict[str, Callable[[], None]]) -> Iterator[str]:
    """The lines that aren't empty and aren't commands; ends at /exit or the end of the input."""
    prompt = _prompt()
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            break
        except KeyboardInterrupt:
            print("\n(Ctrl-D or /exit ends)")
            continue
        if line == "/exit":
            return
        if line in commands:
            commands[line]()
        elif line.startswith("/"):
            print(f"unknown command {line}; /help lists the commands", file=sys.stderr)
        elif line:
            yield line
    if prompt:
        print()


def _prompt() -> str:
    """The prompt of a terminal, which then also has line editing; none for a file or a pipe."""
    if not sys.stdin.isatty():
        return ""
    with suppress(ImportError):  # Windows has its own line editing
        import readline  # noqa: F401 - gives input() history and editing
    return "> "
