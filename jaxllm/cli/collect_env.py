"""`jaxllm collect-env`: what to put into a bug report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

from typer import Option

from jaxllm.cli.options import takes_options


@dataclass(frozen=True, kw_only=True)
class CollectEnvOptions:
    """Flags of `collect-env`."""

    json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False


@takes_options(CollectEnvOptions)
def collect_env(options: CollectEnvOptions) -> None:
    """Show versions, devices, cache and settings, for bug reports; keys and tokens are masked."""
    from jaxllm.cli.environment import collect_environment

    environment = collect_environment()
    print(json.dumps(environment, indent=4) if options.json else as_text(environment))


def as_text(environment: dict[str, Any]) -> str:
    """One section after the other, one fact a line."""
    sections = []
    for title, facts in environment.items():
        rows = facts.items() if isinstance(facts, dict) else enumerate(facts if isinstance(facts, list) else [facts])
        lines = [f"  {name}: {_as_line(value)}" for name, value in rows]
        sections.append("\n".join([f"{title}:", *(lines or ["  none"])]))
    return "\n\n".join(sections)


def _as_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_as_line(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)
