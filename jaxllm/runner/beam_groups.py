"""The beam searches of a step on the host: which rows and places are whose, into the buffer and out of the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import numpy as np

from jaxllm.runner.beam_selection import BeamOutputs
from jaxllm.runner.packed_fields import Fields, PackedFields
from jaxllm.steps import MAX_BEAM_END_IDS, BeamSelection, BeamSettings, ScheduledRequest, SlotStart


class BeamGroup(NamedTuple):
    """The rows of one search, and the places where its results go; see `beam_selection`."""

    request_id: str
    first_row: int
    num_rows: int
    first_place: int
    settings: BeamSettings
    end_token_ids: tuple[int, ...]

    @property
    def rows(self) -> slice:
        return slice(self.first_row, self.first_row + self.num_rows)

    @property
    def places(self) -> slice:
        return slice(self.first_place, self.first_place + self.settings.width)


@dataclass(frozen=True)
class BeamLayout(PackedFields):
    """Fields of the buffer that says which rows are beams."""

    num_rows: int

    @cached_property
    def fields(self) -> Fields:
        rows, integer, floating = self.num_rows, np.dtype(np.int32), np.dtype(np.float32)
        return {
            "width": ((rows,), integer),
            "place": ((rows,), integer),
            "score": ((rows,), floating),
            "temperature": ((rows,), floating),
            "end_ids": ((rows, MAX_BEAM_END_IDS), integer),
            "any_bitmask": ((), integer),
        }


def find_beam_groups(requests: Sequence[ScheduledRequest], starts: Mapping[int, SlotStart]) -> list[BeamGroup]:
    """The groups of a step in the order of their rows, with places one after the other."""
    groups: list[BeamGroup] = []
    first_place = 0
    beams = ((row, request) for row, request in enumerate(requests) if request.beam_score is not None)
    for request_id, rows in groupby(beams, key=lambda beam: beam[1].request_id):
        (first_row, request), *others = rows
        start = starts[request.slot]
        assert start.beam is not None, f"slot {request.slot} was not started for a beam search"
        num_rows = 1 + len(others)
        groups.append(BeamGroup(request_id, first_row, num_rows, first_place, start.beam, start.stop_token_ids))
        first_place += start.beam.width
    return groups


def pack_beams(
    groups: Sequence[BeamGroup], requests: Sequence[ScheduledRequest], views: Mapping[str, np.ndarray]
) -> None:
    """Fills a buffer of zeros, which say that there is no beam."""
    views["temperature"][:] = 1.0
    views["end_ids"][:] = _UNUSED
    for group in groups:
        rows = group.rows
        views["width"][rows] = group.settings.width
        views["place"][rows] = group.first_place
        views["score"][rows] = [request.beam_score for request in requests[rows]]
        views["temperature"][rows] = group.settings.temperature
        views["end_ids"][rows, : len(group.end_token_ids)] = group.end_token_ids


def read_beams(group: BeamGroup, outputs: BeamOutputs) -> BeamSelection:
    """The group's part of outputs that lie on the host."""
    scores = outputs.scores[group.places]
    num_beams = int(np.count_nonzero(scores > -np.inf))  # places are filled from the first
    chosen = slice(group.first_place, group.first_place + num_beams)
    considered = slice(2 * group.settings.width)
    ids, logprobs, ranks = (np.asarray(column[group.rows, considered]) for column in outputs.candidates)
    return BeamSelection(
        parents=np.asarray(outputs.parents[chosen]) - group.first_row,
        token_ids=np.asarray(outputs.token_ids[chosen]),
        scores=np.asarray(outputs.scores[chosen]),
        candidate_ids=ids,
        candidate_logprobs=logprobs,
        candidate_ranks=ranks,
    )


_UNUSED = -1
