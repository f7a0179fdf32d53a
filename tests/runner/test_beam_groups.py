"""Which rows and places belong to which search, in the buffer and in the results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxllm.runner.batch import SlotTable
from jaxllm.runner.beam_groups import BeamGroup, BeamLayout, find_beam_groups, pack_beams, read_beams
from jaxllm.runner.beam_selection import BeamOutputs, Candidates
from jaxllm.runner.layout import Bucket, Layout
from jaxllm.sampling_params import SamplingParams
from jaxllm.steps import BeamSettings, ScheduledRequest, SlotStart

NUM_SLOTS = 8
LAYOUT = Layout(Bucket(num_tokens=64, num_rows=8, has_chunks=True), pages_per_request=4)
GREEDY = SamplingParams(temperature=0.0)


def make_start(slot: int, width: int | None, **fields: Any) -> SlotStart:
    nothing = np.zeros(0, np.int32)
    given: dict[str, Any] = {"sampling_params": GREEDY, "stop_token_ids": (), **fields}
    temperature = given.pop("temperature", 1.0)
    beam = None if width is None else BeamSettings(width=width, temperature=temperature)
    return SlotStart(slot=slot, seed=0, prompt_token_ids=nothing, output_token_ids=nothing, beam=beam, **given)


def make_row(slot: int, score: float | None, token_ids: list[int] | None = None, **fields: Any) -> ScheduledRequest:
    count = 1 if token_ids is None else len(token_ids)
    ids = None if token_ids is None else np.array(token_ids, np.int32)
    given: dict[str, Any] = {"samples": True, "num_output_tokens": 1, "beam_score": score, **fields}
    return ScheduledRequest(f"r{slot}", slot, 4, count, ids, np.array([1], np.int32), **given)


STARTS = [
    make_start(0, 3, stop_token_ids=(5, 9)),
    make_start(1, None),
    make_start(2, 2, temperature=0.5),
]
ROWS = [
    make_row(0, -1.5, [7]),
    make_row(0, -2.5, [8]),
    make_row(1, None),
    make_row(2, 0.0, [3, 4, 5]),
]


@pytest.fixture
def table() -> SlotTable:
    table = SlotTable(NUM_SLOTS, 40, 16)
    for start in STARTS:
        table.start(start)
    return table


@pytest.fixture
def views(table: SlotTable) -> dict[str, np.ndarray]:
    layout = BeamLayout(num_rows=8)
    views = layout.views(np.zeros(layout.size, np.int32))
    pack_beams(table.beam_groups(ROWS), ROWS, views)
    return views


def test_neighbouring_rows_of_a_request_are_a_group() -> None:
    groups = find_beam_groups(ROWS, {start.slot: start for start in STARTS})
    assert [(group.request_id, group.rows, group.places) for group in groups] == [
        ("r0", slice(0, 2), slice(0, 3)),
        ("r2", slice(3, 4), slice(3, 5)),
    ]
    assert groups[0].end_token_ids == (5, 9)


def test_rows_carry_what_their_search_asks_for(views: dict[str, np.ndarray]) -> None:
    assert views["width"].tolist() == [3, 3, 0, 2, 0, 0, 0, 0]
    assert views["place"].tolist() == [0, 0, 0, 3, 0, 0, 0, 0]
    assert views["score"].tolist() == [-1.5, -2.5, 0, 0, 0, 0, 0, 0]
    assert views["temperature"].tolist() == [1, 1, 1, 0.5, 1, 1, 1, 1]
    assert [set(row) for row in views["end_ids"].tolist()] == [{5, 9, -1}] * 2 + [{-1}] * 6


def test_the_drawn_tokens_of_beams_are_kept_nowhere(table: SlotTable) -> None:
    views = LAYOUT.views(table.pack(ROWS, LAYOUT)[0])
    assert views["write_slot"].tolist() == [NUM_SLOTS, NUM_SLOTS, 1, *[NUM_SLOTS] * 5]
    assert views["slot"][:4].tolist() == [0, 0, 1, 2]
    assert views["token_ids"][:2].tolist() == [7, 8]


def test_allowed_tokens_bind_the_choice_of_beams_and_not_the_draw() -> None:
    table = SlotTable(NUM_SLOTS, 40, 16)
    table.start(make_start(0, 2, sampling_params=SamplingParams(allowed_token_ids=[3, 35])))
    row = make_row(0, -1.0, [7])
    assert table.pack([row], LAYOUT)[1].bitmask is None
    bitmask = table.beam_bitmask([row])
    assert bitmask is not None
    assert bitmask.tolist() == [[1 << 3, 1 << 3]]


def test_beams_that_may_have_every_token_need_no_bitmask(table: SlotTable) -> None:
    assert table.beam_bitmask(ROWS) is None


def test_results_are_cut_to_the_group() -> None:
    ids = np.arange(32, dtype=np.int32).reshape(4, 8)
    outputs = BeamOutputs(
        parents=np.array([0, 1, 1, 3, 0], np.int32),
        token_ids=np.array([10, 11, 12, 13, 0], np.int32),
        scores=np.array([-1.0, -2.0, -3.0, -4.0, -np.inf], np.float32),
        candidates=Candidates(ids, -ids.astype(np.float32), ids + 1),
    )
    group = BeamGroup("r2", 3, 1, 3, BeamSettings(width=2), ())
    selection = read_beams(group, outputs)
    assert selection.parents.tolist() == [0]
    assert selection.token_ids.tolist() == [13]
    assert selection.scores.tolist() == [-4.0]
    assert selection.candidate_ids.tolist() == [[24, 25, 26, 27]]
    assert selection.candidate_logprobs.tolist() == [[-24.0, -25.0, -26.0, -27.0]]
    assert selection.candidate_ranks.tolist() == [[25, 26, 27, 28]]
