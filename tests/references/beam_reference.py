"""Beam searches of transformers (torch, CPU, float32), read from the committed file without torch.

`python -m tests.references.make_beams` writes the file; see README.md in this folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.references.reference import DATA_DIRECTORY

ReferenceBeam = tuple[list[int], float]
"""What was generated, and the sum of its log-probabilities."""


@dataclass(frozen=True, kw_only=True)
class BeamCase:
    """A prompt and what transformers finds for it with `num_beams` of each width, EOS ignored."""

    token_ids: list[int]
    beams: dict[int, list[ReferenceBeam]]
    """By width, best first."""


@dataclass(frozen=True, kw_only=True)
class EosCase:
    """A prompt of which some results end with EOS, as the definition of `BeamSearchParams` says, computed by torch."""

    token_ids: list[int]
    beams: list[ReferenceBeam]
    is_transformers: bool
    """Whether `generate` of transformers finds the same."""


@dataclass(frozen=True, kw_only=True)
class BeamReference:
    """All searches of one model."""

    num_tokens: int
    cases: list[BeamCase]
    eos_token_ids: list[int]
    eos_num_tokens: int
    eos_cases: list[EosCase]


def load_beam_reference(name: str) -> BeamReference:
    """Reads data/<name>/beams.json."""
    record = json.loads((DATA_DIRECTORY / name / "beams.json").read_text(encoding="utf-8"))
    return BeamReference(
        num_tokens=record["num_tokens"],
        cases=[
            BeamCase(
                token_ids=case["token_ids"],
                beams={int(width): _read_beams(beams) for width, beams in case["beams"].items()},
            )
            for case in record["cases"]
        ],
        eos_token_ids=record["eos_token_ids"],
        eos_num_tokens=record["eos_num_tokens"],
        eos_cases=[
            EosCase(
                token_ids=case["token_ids"],
                beams=_read_beams(case["beams"]),
                is_transformers=case["is_transformers"],
            )
            for case in record["eos_cases"]
        ],
    )


def _read_beams(beams: list[Any]) -> list[ReferenceBeam]:
    return [(token_ids, cum_logprob) for token_ids, cum_logprob in beams]
