"""`jaxllm models`: the models that come inside a Python package."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class EmbeddedModelRow(Protocol):
    """What the table shows of an embedded model."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def size(self) -> str: ...
    @property
    def licence(self) -> str: ...
    @property
    def install_command(self) -> str: ...
    @property
    def is_installed(self) -> bool: ...


def models() -> None:
    """List the embedded models and how to install them."""
    from jaxllm.models.loading.embedded import list_embedded_models

    print_models(list_embedded_models())


def print_models(embedded_models: Iterable[EmbeddedModelRow]) -> None:
    """Prints one row per model, then the commands that install the missing ones."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("name", "model", "size", "licence", "installed", box=None, pad_edge=False)
    missing = []
    for model in embedded_models:
        table.add_row(
            model.name, model.description, model.size, model.licence, "yes" if model.is_installed else "no"
        )
        if not model.is_installed:
            missing.append(model)
    console.print(table)
    for model in missing:
        console.print(f"\nTo install {model.name}:\n  {model.install_command}", highlight=False, soft_wrap=True)
