"""The beam searches of a step on the host: which rows and places are whose, into the buffer and out of the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxllm.runner.beam_selection import BeamOutputs
from jaxllm.steps import BeamSelection, BeamSettings, ScheduledRequest, SlotStart


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


def find_beam_groups(requests: Sequence[ScheduledRequest], starts: Mapping[int, SlotStart]) -> list[BeamGroup]:
    """The groups of a step in the order of their rows, with places one after the other."""
    groups: list[BeamGroup] = []
    first_place = 0
    for row, request in enumerate(requests):
        if request.beam_score is None:
            continue
        if groups and groups[-1].request_id == request.request_id:
            groups[-1] = groups[-1]._replace(num_rows=groups[-1].num_rows + 1)
            continue
        start = starts[request.slot]
        assert start.beam is not None, f"slot {request.slot} was not started for a beam search"
        groups.append(BeamGroup(request.request_id, row, 1, first_place, start.beam, start.stop_token_ids))
        first_place += start.beam.width
    return groups


def pack_beams(
    groups: Sequence[BeamGroup], requests: Sequence[ScheduledRequest], views: Mapping[str, np.ndarray]
) -> None:
    """Fills the fields of beams in a buffer of zeros, which say that there is none."""
    if not groups:
        return
    views["beam_temperature"][:] = 1.0
    views["beam_end_ids"][:] = _UNUSED
    for group in groups:
        rows = group.rows
        views["beam_width"][rows] = group.settings.width
        views["beam_place"][rows] = group.first_place
        views["beam_score"][rows] = [request.beam_score for request in requests[rows]]
        views["beam_temperature"][rows] = group.settings.temperature
        views["beam_end_ids"][rows, : len(group.end_token_ids)] = group.end_token_ids


def read_beams(group: BeamGroup, outputs: BeamOutputs) -> BeamSelection:
    """The group's part of outputs that lie on the host."""
    scores = outputs.scores[group.places]
    num_beams = int(np.count_nonzero(scores > -np.inf))  # places are filled from the first
    chosen = slice(group.first_place, group.first_place + num_beams)
    considered = slice(2 * group.settings.width)
    candidates = outputs.candidates
    return BeamSelection(
        parents=np.asarray(outputs.parents[chosen]) - group.first_row,
        token_ids=np.asarray(outputs.token_ids[chosen]),
        scores=np.asarray(outputs.scores[chosen]),
        candidate_ids=np.asarray(candidates.ids[group.rows, considered]),
        candidate_logprobs=np.asarray(candidates.logprobs[group.rows, considered]),
        candidate_ranks=np.asarray(candidates.ranks[group.rows, considered]),
    )


_UNUSED = -1
