"""`jaxllm chat` and `jaxllm complete`: talk to a server, or to a model in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer import Option

from jaxllm.cli.answer import Answer, AnswerSource
from jaxllm.cli.options import EngineOptions, takes_options
from jaxllm.errors import ValidationError

SERVER_FLAGS = ("url", "model_name", "api_key")


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Flags on where answers come from, and how."""

    url: Annotated[str | None, Option(help="Server to talk to.  [default: http://localhost:8000/v1]")] = None
    model_name: Annotated[str | None, Option(help="Model of the server, the first it lists if not given.")] = None
    api_key: Annotated[
        str | None, Option(help="Key of the server; else OPENAI_API_KEY or JAXLLM_API_KEY, else EMPTY.")
    ] = None
    stats: Annotated[bool, Option(help="Print time to first token and tokens per second.")] = False
    max_tokens: Annotated[int | None, Option(min=1, help="Longest answer.")] = None
    temperature: Annotated[float | None, Option(min=0, help="0 is greedy.")] = None
    top_p: Annotated[float | None, Option(help="1 keeps all tokens.")] = None

    def sampling(self) -> dict[str, Any]:
        """The sampling parameters that were given."""
        values = {"max_tokens": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class LocalEngineOptions(EngineOptions):
    """Engine flags of a command that talks to a server unless a model is given."""

    model: Annotated[str, Option(help="Run this model in this process instead of talking to a server.")] = ""


@dataclass(frozen=True, kw_only=True)
class ChatOptions(LocalEngineOptions, ClientOptions):
    """Flags of `chat`."""

    system_prompt: Annotated[str | None, Option(help="What the model is told before the conversation.")] = None
    quick: Annotated[str | None, Option("--quick", "-q", help="Ask this one question and end.")] = None


@dataclass(frozen=True, kw_only=True)
class CompleteOptions(LocalEngineOptions, ClientOptions):
    """Flags of `complete`."""

    quick: Annotated[str | None, Option("--quick", "-q", help="Complete this one prompt and end.")] = None


@takes_options(ChatOptions)
def chat(options: ChatOptions) -> None:
    """Talk with a model, line by line."""
    from jaxllm.cli.prompt_loop import Conversation

    with _answer_source(options) as source:
        conversation = Conversation(source, system_prompt=options.system_prompt, shows_statistics=options.stats)
        if options.quick is None:
            conversation.run()
        else:
            _end(conversation.ask(options.quick))


@takes_options(CompleteOptions)
def complete(options: CompleteOptions) -> None:
    """Complete texts, line by line."""
    from jaxllm.cli import prompt_loop

    with _answer_source(options) as source:
        if options.quick is None:
            prompt_loop.run_completions(source, shows_statistics=options.stats)
        else:
            _end(prompt_loop.complete(source, options.quick, shows_statistics=options.stats))


def _end(answer: Answer) -> None:
    if answer.was_interrupted:
        raise typer.Exit(130)


@contextmanager
def _answer_source(options: ChatOptions | CompleteOptions) -> Iterator[AnswerSource]:
    """The server or the engine that the flags name, closed at the end."""
    source = _local_source(options) if options.model else _server_source(options)
    try:
        yield source
    finally:
        source.close()


def _local_source(options: ChatOptions | CompleteOptions) -> AnswerSource:
    from jaxllm.cli.local_answers import LocalAnswers

    for name in SERVER_FLAGS:
        if getattr(options, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise ValidationError(
                f"{flag} is about a server, and --model {options.model} runs in this process: give one of the two",
                parameter=name,
            )
    from jaxllm.llm import JaxLLM

    return LocalAnswers(JaxLLM(**options.engine_arguments()), **options.sampling())


def _server_source(options: ChatOptions | CompleteOptions) -> AnswerSource:
    from jaxllm.cli.server_answers import DEFAULT_URL, ServerAnswers

    nothing = {"model": "", "seed": 0}
    given = [name for name, value in options.engine_arguments().items() if value != nothing.get(name)]
    if given:
        flag = f"--{min(given).replace('_', '-')}"
        raise ValidationError(f"{flag} is about an engine in this process, which needs --model", parameter=min(given))
    return ServerAnswers(
        url=options.url or DEFAULT_URL,
        model_name=options.model_name,
        api_key=options.api_key,
        **options.sampling(),
    )
