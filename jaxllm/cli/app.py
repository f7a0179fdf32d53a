"""The command `jaxllm`. Importing this module must stay cheap: commands import what they run when they run."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from jaxllm import __version__
from jaxllm.cli.bench import bench_app
from jaxllm.cli.chat import chat, complete
from jaxllm.cli.collect_env import collect_env
from jaxllm.cli.command import FlexibleCommand, ModelCommand
from jaxllm.cli.compile import compile_model
from jaxllm.cli.inspect_model import inspect_model
from jaxllm.cli.models import models
from jaxllm.cli.serve import serve
from jaxllm.errors import JaxLLMError

# Rich help and tracebacks would cost every call some 0.2 s of imports.
app = typer.Typer(
    name="jaxllm",
    help="LLM inference on JAX: GPU, TPU and CPU.",
    epilog="`jaxllm COMMAND --help` shows all flags of a command, `--help=WORD` those with WORD in their names.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command(cls=ModelCommand, options_metavar="[MODEL] [OPTIONS]")(serve)
app.command(cls=FlexibleCommand)(chat)
app.command(cls=FlexibleCommand)(complete)
app.add_typer(bench_app)
app.command()(models)
app.command("inspect", cls=ModelCommand, options_metavar="[MODEL] [OPTIONS]")(inspect_model)
app.command("compile", cls=ModelCommand, options_metavar="[MODEL] [OPTIONS]")(compile_model)
app.command("collect-env", cls=FlexibleCommand)(collect_env)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", "-v", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """LLM inference on JAX: GPU, TPU and CPU."""


def main() -> None:
    """Runs the command; an error made by the user is one line and exit status 1 (2 if it is about the flags)."""
    try:
        status = app(prog_name="jaxllm", standalone_mode=False)
    except typer.TyperException as error:
        _print_usage_error(error)
        sys.exit(error.exit_code)
    except (JaxLLMError, OSError) as error:
        print(f"jaxllm: error: {error}", file=sys.stderr)
        sys.exit(1)
    except typer.Abort:
        sys.exit(1)
    sys.exit(status)


def _print_usage_error(error: typer.TyperException) -> None:
    """One line that names the command; a group without a command has its whole help as the message."""
    message = error.format_message()
    context = getattr(error, "ctx", None)
    path = "jaxllm" if context is None else context.command_path
    print(message if "\n" in message else f"{path}: error: {message}", file=sys.stderr)
