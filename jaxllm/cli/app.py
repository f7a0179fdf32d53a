"""The command `jaxllm`. Importing this module must stay cheap: commands import what they run when they run."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from jaxllm import __version__
from jaxllm.cli.bench import bench_app
from jaxllm.cli.models import models
from jaxllm.errors import JaxLLMError

# Rich help and tracebacks would cost every call some 0.2 s of imports.
app = typer.Typer(
    name="jaxllm",
    help="LLM inference on JAX: GPU, TPU and CPU.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(bench_app)
app.command()(models)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """LLM inference on JAX: GPU, TPU and CPU."""


def main() -> None:
    """Runs the command; an error made by the user is one line and exit status 1, without a traceback."""
    try:
        app()
    except JaxLLMError as error:
        print(f"jaxllm: error: {error}", file=sys.stderr)
        sys.exit(1)
