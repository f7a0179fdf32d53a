"""`jaxllm models`: the models that come inside a Python package."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxllm.models.loading.embedded import EmbeddedModel


def models() -> None:
    """List the embedded models and how to install them."""
    from jaxllm.models.loading.embedded import list_embedded_models

    print_models(list_embedded_models())


def print_models(embedded_models: Iterable[EmbeddedModel]) -> None:
    """Prints one row per model, then the commands that install those not yet installed."""
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "model", "size", "licence", "installed", box=None, pad_edge=False)
    missing = []
    for model in embedded_models:
        size = f"{model.num_bytes / 1e6:.0f} MB"
        table.add_row(model.name, model.description, size, model.license, "yes" if model.is_installed else "no")
        if not model.is_installed:
            missing.append(model)
    console = Console()
    console.print(table)
    for model in missing:
        # soft_wrap keeps the command on one line, so that it can be copied.
        console.print(f"\nTo install {model.name}:\n  {model.install_command}", highlight=False, soft_wrap=True)
