"""`jaxllm inspect`: a model's sizes and its need of memory, without loading it."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from jaxllm.cli.options import ModelOptions, SizeOptions, given_values, takes_options

if TYPE_CHECKING:
    from jaxllm.cli.model_facts import ModelFacts


@dataclass(frozen=True, kw_only=True)
class InspectOptions(SizeOptions, ModelOptions):
    """Flags of `inspect`: those of the engine that change sizes."""

    memory: Annotated[str | None, Option(help="Memory of each device, such as 80GiB: says how many sequences fit.")] = (
        None
    )
    json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False


@takes_options(InspectOptions)
def inspect_model(options: InspectOptions) -> None:
    """Show a model's size and the memory that it needs, before loading it."""
    # Asking for the platform must not take the memory of a card that an engine is using.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from jaxllm.cli.model_facts import read_model_facts
    from jaxllm.config import parse_count
    from jaxllm.engine_args import make_engine_config

    config = make_engine_config(**given_values(options, SizeOptions), **given_values(options, ModelOptions))
    memory = None if options.memory is None else parse_count("memory", options.memory)
    usable = None if memory is None else int(memory * config.device_memory_utilization)
    facts = read_model_facts(config)
    if options.json:
        print(json.dumps(as_json(facts, usable), indent=4))
    else:
        print_facts(facts, usable)


def as_json(facts: ModelFacts, usable_memory: int | None) -> dict[str, Any]:
    """All facts and what follows from them."""
    values = dataclasses.asdict(facts) | {
        "total_parameters": facts.total_parameters,
        "kv_bytes_per_sequence": facts.kv_bytes_per_sequence,
        "min_bytes": facts.min_bytes,
    }
    if usable_memory is not None:
        values |= {
            "usable_memory_bytes": usable_memory,
            "kv_tokens": facts.kv_tokens_in(usable_memory),
            "num_sequences": facts.sequences_in(usable_memory),
        }
    return values


def print_facts(facts: ModelFacts, usable_memory: int | None) -> None:
    """Prints one fact a line, in three groups."""
    per_device = "" if facts.tensor_parallel_size == 1 else f" on each of {facts.tensor_parallel_size} devices"
    rows = [
        ("model", facts.model),
        ("architecture", facts.architecture),
        ("parameters", f"{facts.total_parameters:,}"),
        *((f"  {part}", f"{count:,}") for part, count in facts.num_parameters.items()),
        ("layers", f"{facts.num_layers}, hidden size {facts.hidden_size}"),
        (
            "heads",
            f"{facts.num_heads} of {facts.head_dim}, {facts.num_kv_heads} for keys and values",
        ),
        ("vocabulary", f"{facts.vocab_size:,}"),
        ("context", f"{facts.context_length:,} tokens"),
        ("saved as", f"{facts.kind}, {facts.saved_dtype}{_stored(facts)}"),
        ("runs in", facts.dtype),
        (f"weights{per_device}", _size(facts.weight_bytes)),
        (f"workspace of a step{per_device}", f"at most {_size(facts.workspace_bytes)}"),
        (f"KV cache per token{per_device}", _size(facts.kv_bytes_per_token)),
        (f"KV cache per sequence of {facts.max_model_len:,}{per_device}", _size(facts.kv_bytes_per_sequence)),
        (f"least memory{per_device}", _size(facts.min_bytes)),
    ]
    if usable_memory is not None:
        rows += [
            (
                f"in {_size(usable_memory)}{per_device}",
                f"{facts.sequences_in(usable_memory):,} sequences of {facts.max_model_len:,} tokens, "
                f"{facts.kv_tokens_in(usable_memory):,} tokens in all",
            )
        ]
    width = max(len(label) for label, _ in rows) + 2
    for label, value in rows:
        print(f"{label:<{width}}{value}")


def _stored(facts: ModelFacts) -> str:
    return f", {_size(facts.stored_bytes)} on this disk" if facts.stored_bytes else ""


def _size(num_bytes: int) -> str:
    """Bytes in the largest binary unit of which there is one."""
    for exponent, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if num_bytes >= 1024**exponent:
            return f"{num_bytes / 1024**exponent:.2f} {unit}"
    return f"{num_bytes} bytes"
