from __future__ import annotations

import sys
import types
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from jaxllm.cli.answer import Piece, print_answer
from jaxllm.cli.app import app
from jaxllm.cli.prompt_loop import Conversation
from jaxllm.errors import ValidationError
from tests.bench.fake_server import FakeServer, serving
from tests.frontend.helpers import make_llm

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "JAXLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def run(server: FakeServer, *arguments: str, input: str = "") -> Result:
    command, *flags = arguments
    with serving(server) as url:
        return RUNNER.invoke(app, [command, "--url", f"{url}/v1", *flags], input=input)


def test_quick_chat_prints_the_answer_and_ends() -> None:
    server = FakeServer(tokens=["Hel", "lo", "!"])
    result = run(server, "chat", "-q", "Hi", "--system-prompt", "Be brief", "--max-tokens", "5", "--temperature", "0")
    assert (result.exit_code, result.stdout) == (0, "Hello!\n")
    [body] = server.bodies
    assert body["messages"] == [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("fake", 5, 0.0)
    assert server.headers[0]["Authorization"] == "Bearer EMPTY"


def test_chat_keeps_the_history() -> None:
    server = FakeServer(tokens=["yes"])
    result = run(server, "chat", input="one\n\ntwo\n/exit\nthree\n")
    assert result.stdout == "yes\nyes\n"
    assert [body["messages"] for body in server.bodies] == [
        [{"role": "user", "content": "one"}],
        [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "two"},
        ],
    ]


def test_clear_forgets_all_but_the_system_prompt() -> None:
    server = FakeServer(tokens=["yes"])
    run(server, "chat", "--system-prompt", "s", input="one\n/clear\ntwo\n")
    assert server.bodies[1]["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "two"}]


def test_help_lists_the_commands_and_unknown_ones_are_named() -> None:
    result = run(FakeServer(), "chat", input="/help\n/nothing\n")
    assert "/clear" in result.stdout
    assert result.stderr == "unknown command /nothing; /help lists the commands\n"


def test_thoughts_stand_in_think_tags_and_outside_the_history() -> None:
    server = FakeServer(reasoning=["hm", "m"], tokens=["yes"])
    result = run(server, "chat", input="one\ntwo\n")
    assert result.stdout == "<think>\nhmm\n</think>\nyes\n" * 2
    assert server.bodies[1]["messages"][1] == {"role": "assistant", "content": "yes"}


def test_statistics_go_to_standard_error() -> None:
    result = run(FakeServer(tokens=["a", "b"]), "chat", "-q", "Hi", "--stats")
    assert result.stdout == "ab\n"
    assert result.stderr.startswith("[time to first token ")
    assert ", 2 tokens" in result.stderr


def test_error_of_one_request_does_not_end_the_session() -> None:
    server = FakeServer(tokens=["yes"], failures={0: (400, "too long")})
    result = run(server, "chat", input="one\ntwo\n")
    assert (result.exit_code, result.stdout) == (0, "yes\n")
    assert "refuses the request (HTTP 400: too long)" in result.stderr
    assert server.bodies[1]["messages"] == [{"role": "user", "content": "two"}]


def test_quick_completion() -> None:
    server = FakeServer(tokens=[" there", " was"])
    result = run(server, "complete", "-q", "Once", "--model-name", "fake")
    assert (result.exit_code, result.stdout) == (0, " there was\n")
    assert server.bodies[0]["prompt"] == "Once"


def test_completions_line_by_line() -> None:
    server = FakeServer(tokens=["x"])
    result = run(server, "complete", "--stats", input="a\nb\n/help\n")
    assert result.stdout.startswith("x\nx\n/exit")
    assert [body["prompt"] for body in server.bodies] == ["a", "b"]


@pytest.mark.parametrize(
    ("variables", "flags", "expected"),
    [
        ({"OPENAI_API_KEY": "a", "JAXLLM_API_KEY": "b"}, [], "Bearer a"),
        ({"OPENAI_API_KEY": "", "JAXLLM_API_KEY": "b"}, [], "Bearer b"),
        ({"OPENAI_API_KEY": "a"}, ["--api-key", "c"], "Bearer c"),
    ],
)
def test_key_comes_from_the_flag_or_the_environment(
    variables: dict[str, str], flags: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    server = FakeServer()
    run(server, "chat", "-q", "Hi", *flags)
    assert server.headers[0]["Authorization"] == expected


@pytest.mark.parametrize(
    ("server", "flags", "message"),
    [
        (FakeServer(api_key="k"), [], r"refuses the API key \(HTTP 401: wrong key\); give the right one with"),
        (
            FakeServer(),
            ["--model-name", "m"],
            r"knows no such thing \(HTTP 404: The model `m` does not exist.\); check",
        ),
        (FakeServer(failures={0: (503, "full")}), [], r"refuses the request \(HTTP 503: full\)"),
        (FakeServer(models=()), [], "offers no model"),
        (FakeServer(cut_after={0: 1}), [], "^lost the connection to the server at http"),
        (FakeServer(error_after={0: 1}), [], "failed: the engine died"),
    ],
)
def test_failure_is_one_error(server: FakeServer, flags: list[str], message: str) -> None:
    result = run(server, "chat", "-q", "Hi", *flags)
    with pytest.raises(Exception, match=message):
        raise_from(result)
    assert "\n" not in str(result.exception)


def raise_from(result: Result) -> None:
    assert result.exception is not None
    raise result.exception


def test_missing_server_is_one_error() -> None:
    result = RUNNER.invoke(app, ["chat", "--url", "http://127.0.0.1:9/v1"])
    with pytest.raises(Exception, match=r"^no connection to a server at http://127.0.0.1:9/v1 \(.*refused\); `jaxllm"):
        raise_from(result)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "m", "--url", "u"], r"^--url is about a server, and --model m runs in this process"),
        (["--model", "m", "--model-name", "u"], r"^--model-name is about a server"),
        (["--dtype", "float32"], r"^--dtype is about an engine in this process, which needs --model$"),
        (["--seed", "1"], r"^--seed is about an engine in this process, which needs --model$"),
    ],
)
def test_server_and_engine_flags_do_not_mix(flags: list[str], message: str) -> None:
    result = RUNNER.invoke(app, ["chat", *flags])
    with pytest.raises(ValidationError, match=message):
        raise_from(result)


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Engine arguments of the JaxLLM that the command makes; it answers from a script."""
    received: dict[str, Any] = {}

    def make(**engine_arguments: Any) -> Any:
        received.update(engine_arguments, llm=make_llm({"<user>Hi<assistant>": "Hello, you there!!", "Once": " upon"}))
        return received["llm"]

    monkeypatch.setitem(sys.modules, "jaxllm.llm", types.SimpleNamespace(JaxLLM=make))
    return received


def test_local_model_chats_without_a_server(local: dict[str, Any]) -> None:
    result = RUNNER.invoke(app, ["chat", "--model", "m", "-q", "Hi", "--dtype", "float32", "--stats"])
    assert (result.exit_code, result.stdout) == (0, "Hello, you there!!\n")
    assert ", 19 tokens" in result.stderr
    assert (local["model"], local["dtype"]) == ("m", "float32")
    assert local["llm"]._built.runner.is_shut_down


def test_local_model_completes(local: dict[str, Any]) -> None:
    result = RUNNER.invoke(app, ["complete", "--model", "m", "-q", "Once", "--max-tokens", "3"])
    assert (result.exit_code, result.stdout) == (0, " up\n")


def test_local_error_does_not_end_the_session(local: dict[str, Any]) -> None:
    result = RUNNER.invoke(app, ["chat", "--model", "m"], input=f"{'x' * 100}\nHi\n")
    assert (result.exit_code, result.stdout) == (0, "Hello, you there!!\n")
    assert result.stderr.startswith("error: ")


class InterruptedSource:
    """Its answers are interrupted after the first piece."""

    def __init__(self, first: str) -> None:
        self.first = first
        self.was_closed = False

    def chat(self, messages: Any) -> Generator[Piece]:
        try:
            yield Piece(text=self.first)
            raise KeyboardInterrupt
        finally:
            self.was_closed = True

    complete = chat

    def close(self) -> None:
        pass


def test_interrupted_answer_is_remembered_as_far_as_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    source = InterruptedSource("Hel")
    conversation = Conversation(source, system_prompt=None, shows_statistics=False)
    assert conversation.ask("Hi").was_interrupted
    assert conversation.messages == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}]
    assert source.was_closed
    assert capsys.readouterr().out == "Hel\n"


def test_answer_interrupted_at_once_leaves_no_turn() -> None:
    conversation = Conversation(InterruptedSource(""), system_prompt=None, shows_statistics=False)
    conversation.ask("Hi")
    assert conversation.messages == []


def test_answer_without_tokens_has_no_rate() -> None:
    def nothing() -> Generator[Piece]:
        yield from ()

    assert print_answer(nothing()).statistics().startswith("[no tokens in ")


def test_interrupted_quick_answer_ends_with_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxllm.cli.chat._server_source", lambda _: InterruptedSource("Hel"))
    assert RUNNER.invoke(app, ["chat", "-q", "Hi"]).exit_code == 130


def test_interrupt_at_the_prompt_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from jaxllm.cli.prompt_loop import read_lines

    typed: Iterator[Any] = iter([KeyboardInterrupt(), "one", EOFError()])

    def read(prompt: str) -> str:
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)
    assert list(read_lines({})) == ["one"]
    assert "Ctrl-D" in capsys.readouterr().out
