"""Reference outputs of transformers (torch, CPU, float32), read from the committed files without torch.

`python -m tests.references.make_tiny` and its siblings write the files; see README.md in this folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

DATA_DIRECTORY = Path(__file__).parent / "data"
WEIGHT_SUFFIXES = (".safetensors", ".bin")


@dataclass(frozen=True, kw_only=True)
class ReferenceCase:
    """One prompt and what greedy decoding of it gave, EOS ignored."""

    token_ids: tuple[int, ...]
    """The prompt."""
    output_token_ids: tuple[int, ...]
    """The greedy continuation."""
    output_logprobs: tuple[float, ...]
    """Log-probability of each output token."""
    margins: tuple[float, ...]
    """Per output token, the logit of the best token minus that of the second best."""
    first_top: tuple[tuple[int, float], ...]
    """Best five (token id, log-probability) of the first output step, best first."""
    prompt_logprobs: tuple[float, ...] | None
    """Log-probability of token_ids[1:], each given the tokens before it; None where not recorded."""
    text: str | None
    """The text behind token_ids, None for prompts made of random ids."""

    @property
    def minimum_margin(self) -> float:
        return min(self.margins)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A model and its reference cases."""

    name: str
    """Folder name under data/, e.g. "llama_gqa"."""
    directory: Path
    """Folder with outputs.json, and for the tiny models config.json and the weights."""
    cases: tuple[ReferenceCase, ...]

    @property
    def prompts(self) -> list[list[int]]:
        return [list(case.token_ids) for case in self.cases]

    @property
    def outputs(self) -> list[list[int]]:
        return [list(case.output_token_ids) for case in self.cases]

    @property
    def margins(self) -> list[list[float]]:
        return [list(case.margins) for case in self.cases]

    @property
    def has_weights(self) -> bool:
        """Whether `directory` is a complete model directory."""
        return any(path.suffix in WEIGHT_SUFFIXES for path in self.directory.iterdir())


@cache
def load_reference(name: str) -> Reference:
    """Reads data/<name>/outputs.json."""
    directory = DATA_DIRECTORY / name
    if not (directory / "outputs.json").is_file():
        raise KeyError(f"no reference named {name!r}, there are {reference_names()}")
    record = json.loads((directory / "outputs.json").read_text(encoding="utf-8"))
    return Reference(name=name, directory=directory, cases=tuple(_read_case(case) for case in record["cases"]))


def reference_names() -> list[str]:
    """All references, those without committed weights included."""
    return sorted(path.parent.name for path in DATA_DIRECTORY.glob("*/outputs.json"))


def tiny_reference_names(family: str = "") -> list[str]:
    """References whose folder is a complete model directory, of one family ("llama", "opt", ...) or of all."""
    return [name for name in reference_names() if name.startswith(family) and load_reference(name).has_weights]


def _read_case(case: dict[str, Any]) -> ReferenceCase:
    prompt_logprobs = case.get("prompt_logprobs")
    return ReferenceCase(
        token_ids=tuple(case["token_ids"]),
        output_token_ids=tuple(case["output_token_ids"]),
        output_logprobs=tuple(case["output_logprobs"]),
        margins=tuple(case["margins"]),
        first_top=tuple((token_id, logprob) for token_id, logprob in case["first_top"]),
        prompt_logprobs=None if prompt_logprobs is None else tuple(prompt_logprobs),
        text=case.get("text"),
    )
