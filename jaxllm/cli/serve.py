"""`jaxllm serve MODEL`: the OpenAI API over HTTP."""

from __future__ import annotations

import typer

from jaxllm.cli.options import takes_options
from jaxllm.cli.serve_options import ServeOptions


@takes_options(ServeOptions)
def serve(options: ServeOptions) -> None:
    """Serve a model through the OpenAI API."""
    options.refuse()
    engine_config, server_config = options.engine_config(), options.server_config()
    from jaxllm.server.run import serve as run_server

    raise typer.Exit(run_server(engine_config, server_config))
