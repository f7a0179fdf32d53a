"""The arrays of a step, entry by entry."""

from typing import Any

import numpy as np
import pytest

from jaxllm.runner.batch import SlotTable, has_penalties
from jaxllm.runner.layout import FLAGS, Bucket, Layout
from jaxllm.runner.step import FROM_DEVICE
from jaxllm.sampling_params import SamplingParams
from jaxllm.steps import NO_TARGET, ScheduledRequest, SlotStart

PAGE_SIZE = 4
NUM_SLOTS = 4
VOCAB_SIZE = 40
LAYOUT = Layout(Bucket(num_tokens=160, num_rows=4, has_chunks=True), pages_per_request=40)
GREEDY = SamplingParams(temperature=0.0)


def make_table(*params: SamplingParams, **start: Any) -> SlotTable:
    """A table whose slots 0, 1, ... were taken with these parameters."""
    table = SlotTable(NUM_SLOTS, VOCAB_SIZE, PAGE_SIZE)
    for slot, one in enumerate(params):
        table.start(make_start(slot, one, **start))
    return table


def make_start(slot: int, params: SamplingParams, **fields: Any) -> SlotStart:
    given: dict[str, Any] = {"seed": 0, "stop_token_ids": (), **fields}
    nothing = np.zeros(0, np.int32)
    return SlotStart(slot=slot, sampling_params=params, prompt_token_ids=nothing, output_token_ids=nothing, **given)


def decode(slot: int, *, computed: int, page_ids: list[int], **fields: Any) -> ScheduledRequest:
    """A row of one token that only the device knows."""
    given: dict[str, Any] = {"samples": True, "num_output_tokens": 1, "token_ids": None, **fields}
    return ScheduledRequest(f"r{slot}", slot, computed, 1, page_ids=np.array(page_ids, np.int32), **given)


def chunk(slot: int, token_ids: list[int], *, computed: int, page_ids: list[int], **fields: Any) -> ScheduledRequest:
    given: dict[str, Any] = {"samples": True, "num_output_tokens": 0, **fields}
    ids, pages = np.array(token_ids, np.int32), np.array(page_ids, np.int32)
    return ScheduledRequest(f"r{slot}", slot, computed, len(token_ids), ids, pages, **given)


def views_of(table: SlotTable, *requests: ScheduledRequest) -> dict[str, np.ndarray]:
    return LAYOUT.views(table.pack(requests, LAYOUT).buffer)


def flags_of(table: SlotTable, *requests: ScheduledRequest) -> list[str]:
    flags = int(views_of(table, *requests)["flags"])
    return [name for bit, name in enumerate(FLAGS) if flags >> bit & 1]


def edits_of(table: SlotTable, *requests: ScheduledRequest) -> list[dict[int, float]]:
    """Token to value, for each row of the program."""
    edits = table.pack(requests, LAYOUT).constraints.edits
    assert edits is not None
    return [{int(i): float(v) for i, v in zip(*row, strict=True) if i != -1} for row in zip(*edits, strict=True)]


@pytest.fixture
def mixed() -> dict[str, np.ndarray]:
    """A decode row in slot 2 and a chunk in slot 0 that follows two cached tokens and does not end its prompt."""
    table = make_table(GREEDY, GREEDY, GREEDY)
    return views_of(
        table,
        decode(2, computed=5, page_ids=[7, 3]),
        chunk(0, [11, 12, 13], computed=2, page_ids=[5, 9], samples=False),
    )


def test_decode_tokens_come_from_the_device(mixed: dict[str, np.ndarray]) -> None:
    assert mixed["token_ids"][:5].tolist() == [FROM_DEVICE, 11, 12, 13, 0]


def test_positions_follow_the_computed_tokens(mixed: dict[str, np.ndarray]) -> None:
    assert mixed["positions"][:5].tolist() == [5, 2, 3, 4, 0]


def test_tokens_go_to_their_place_in_their_page(mixed: dict[str, np.ndarray]) -> None:
    assert mixed["slot_mapping"][:5].tolist() == [3 * 4 + 1, 5 * 4 + 2, 5 * 4 + 3, 9 * 4, 0]
    assert not mixed["slot_mapping"][4:].any()


def test_padding_rows_own_page_zero_and_one_token(mixed: dict[str, np.ndarray]) -> None:
    assert mixed["page_tables"][:, :3].tolist() == [[7, 3, 0], [5, 9, 0], [0, 0, 0], [0, 0, 0]]
    assert mixed["context_lens"].tolist() == [6, 5, 1, 1]


def test_the_last_token_of_each_row_is_sampled(mixed: dict[str, np.ndarray]) -> None:
    assert mixed["sample_tokens"].tolist() == [0, 3, 0, 0]
    assert mixed["draw_position"].tolist() == [6, 5, 0, 0]


def test_rows_that_draw_nothing_write_to_the_dummy_slot(mixed: dict[str, np.ndarray]) -> None:
    assert mixed["slot"].tolist() == [2, 0, NUM_SLOTS, NUM_SLOTS]
    assert mixed["write_slot"].tolist() == [2, NUM_SLOTS, NUM_SLOTS, NUM_SLOTS]


def test_only_chunks_are_cut_into_tiles(mixed: dict[str, np.ndarray]) -> None:
    assert (int(mixed["num_decodes"]), int(mixed["num_tiles"])) == (1, 1)
    assert mixed["tiles"].tolist() == [[1, 1, 3], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_long_chunks_are_cut_into_several_tiles() -> None:
    pages = list(range(1, 40))
    views = views_of(make_table(GREEDY), chunk(0, [1] * 150, computed=0, page_ids=pages))
    assert views["tiles"][:2].tolist() == [[0, 0, 128], [0, 128, 22]]
    assert (int(views["num_decodes"]), int(views["num_tiles"])) == (0, 2)


def test_a_chunk_of_one_token_after_a_longer_one_is_a_tile() -> None:
    table = make_table(GREEDY, GREEDY)
    views = views_of(table, chunk(0, [1, 2], computed=0, page_ids=[1]), chunk(1, [3], computed=0, page_ids=[2]))
    assert views["tiles"][:2].tolist() == [[0, 0, 2], [1, 2, 1]]
    assert int(views["num_decodes"]) == 0


def test_parameters_are_those_of_the_row_s_slot() -> None:
    params = SamplingParams(temperature=0.5, top_k=7, top_p=0.75, min_p=0.25, presence_penalty=1.5)
    table = make_table(GREEDY, params, seed=(3 << 32) | 0xFFFFFFFE)
    views = views_of(table, decode(1, computed=1, page_ids=[1]), decode(0, computed=1, page_ids=[2]))
    assert views["temperature"].tolist() == [0.5, 0.0, 0.0, 0.0]
    assert views["top_k"].tolist() == [7, 0, 0, 0]
    assert views["top_p"].tolist() == [0.75, 1.0, 1.0, 1.0]
    assert views["min_p"].tolist() == [0.25, 0.0, 0.0, 0.0]
    assert views["presence_penalty"].tolist() == [1.5, 0.0, 0.0, 0.0]
    assert views["repetition_penalty"].tolist() == [1.0, 1.0, 1.0, 1.0]
    assert (int(views["seed_low"][0]), int(views["seed_high"][0])) == (0xFFFFFFFE, 3)


def test_a_retaken_slot_forgets_its_last_request() -> None:
    table = make_table(SamplingParams(temperature=0.5, frequency_penalty=1.0, allowed_token_ids=[1], logprobs=2))
    table.start(make_start(0, GREEDY))
    request = decode(0, computed=1, page_ids=[1])
    assert flags_of(table, request) == []
    assert table.pack([request], LAYOUT).constraints == (None, None)
    assert table.params(0) is GREEDY


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ({"temperature": 0.0}, []),
        ({"temperature": 1.0}, ["any_random"]),
        ({"temperature": 0.0, "repetition_penalty": 1.1}, ["any_penalties"]),
        ({"temperature": 0.0, "logit_bias": {3: 1.0}}, ["any_edits"]),
        ({"temperature": 0.0, "allowed_token_ids": [3]}, ["any_bitmask"]),
        ({"temperature": 0.0, "logprobs": 0}, ["any_logprobs"]),
    ],
)
def test_flags_say_what_some_row_needs(fields: dict[str, Any], flags: list[str]) -> None:
    table = make_table(GREEDY, SamplingParams(**fields))
    rows = decode(0, computed=1, page_ids=[1]), decode(1, computed=1, page_ids=[2])
    assert flags_of(table, *rows) == flags
    assert table.pack(rows, LAYOUT).needs_sampler == bool(flags)
    assert flags_of(table, rows[0], rows[1]._replace(samples=False)) == []


def test_prompt_logprobs_give_targets() -> None:
    targets = np.array([12, 13, NO_TARGET], np.int32)
    request = chunk(0, [11, 12, 13], computed=0, page_ids=[1], prompt_logprob_targets=targets, samples=False)
    table = make_table(GREEDY)
    packed = table.pack([request], LAYOUT)
    assert (packed.needs_prompt_scores, packed.needs_sampler) == (True, False)
    assert not table.pack([request._replace(prompt_logprob_targets=None)], LAYOUT).needs_prompt_scores
    assert views_of(table, request)["targets"][:5].tolist() == [12, 13, NO_TARGET, NO_TARGET, NO_TARGET]


def test_logit_bias_edits_its_own_row_only() -> None:
    table = make_table(GREEDY, SamplingParams(temperature=0.0, logit_bias={3: 1.5, 9: -2.0}))
    edits = edits_of(table, decode(0, computed=1, page_ids=[1]), decode(1, computed=1, page_ids=[2]))
    assert edits == [{}, {3: 1.5, 9: -2.0}, {}, {}]


def test_stop_tokens_are_banned_until_min_tokens() -> None:
    table = make_table(SamplingParams(temperature=0.0, min_tokens=2), stop_token_ids=(5, 6))
    row = decode(0, computed=1, page_ids=[1], num_output_tokens=1)
    assert edits_of(table, row)[0] == {5: -np.inf, 6: -np.inf}
    assert table.pack([row._replace(num_output_tokens=2)], LAYOUT).constraints.edits is None


def test_bad_words_ban_their_last_token_after_their_beginning() -> None:
    table = make_table(GREEDY, bad_word_ids=((8,), (1, 2, 9)))
    row = decode(0, computed=3, page_ids=[1], num_output_tokens=2)
    after_beginning = row._replace(recent_token_ids=np.array([4, 1, 2], np.int32))
    after_other = row._replace(recent_token_ids=np.array([4, 2, 2], np.int32))
    assert edits_of(table, after_beginning)[0] == {8: -np.inf, 9: -np.inf}
    assert edits_of(table, after_other)[0] == {8: -np.inf}


def test_the_prompt_is_no_beginning_of_a_bad_word() -> None:
    table = make_table(GREEDY, bad_word_ids=((8,), (1, 2, 9)))
    row = decode(0, computed=3, page_ids=[1], num_output_tokens=1)
    assert edits_of(table, row._replace(recent_token_ids=np.array([4, 1, 2], np.int32)))[0] == {8: -np.inf}


def test_allowed_tokens_are_the_bits_of_their_row() -> None:
    table = make_table(GREEDY, SamplingParams(temperature=0.0, allowed_token_ids=[0, 33]))
    rows = decode(0, computed=1, page_ids=[1]), decode(1, computed=1, page_ids=[2])
    bitmask = table.pack(rows, LAYOUT).constraints.bitmask
    assert bitmask is not None
    everything = [0xFFFFFFFF, 0xFFFFFFFF]
    assert bitmask.tolist() == [everything, [1, 2], everything, everything]


def test_penalties_need_counts() -> None:
    assert not has_penalties(GREEDY)
    assert has_penalties(SamplingParams(presence_penalty=0.1))
    assert has_penalties(SamplingParams(frequency_penalty=-0.1))
    assert has_penalties(SamplingParams(repetition_penalty=0.9))
