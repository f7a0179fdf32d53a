from __future__ import annotations

import math

from jaxllm.outputs import Logprob
from jaxllm.server.logprobs import TokenNames, chat_logprobs, clamp, completion_logprobs, prompt_logprobs, top_entries
from tests.frontend.helpers import EOS, TOKENIZER, ids

NAMES = TokenNames(TOKENIZER, as_ids=False)
POSITION = {7: Logprob(-3.0, 5, "h"), 1: Logprob(-0.5, 1, "a"), 2: Logprob(-1.0, 2, "b")}
"""Token 7 was drawn, which is not among the likeliest."""


def position(token_id: int) -> dict[int, Logprob]:
    return {token_id: Logprob(-1.0, 1, TOKENIZER.token_text(token_id))}


def offsets(token_ids: list[int], text: str, offset: int = 0) -> list[int]:
    positions = [position(token_id) for token_id in token_ids]
    logprobs = completion_logprobs(token_ids, positions, count=0, names=NAMES, text=text, offset=offset)
    return logprobs["text_offset"]


def test_infinity_and_nan_have_a_number() -> None:
    assert [clamp(-math.inf), clamp(math.nan), clamp(-2.0)] == [-9999.0, -9999.0, -2.0]


def test_likeliest_tokens_come_in_their_order() -> None:
    assert [token_id for token_id, _ in top_entries(POSITION, 2)] == [1, 2]
    assert [token_id for token_id, _ in top_entries(POSITION, 1)] == [1]
    assert [token_id for token_id, _ in top_entries(POSITION, 0)] == []
    assert [token_id for token_id, _ in top_entries(POSITION, -1)] == [1, 2, 7]


def test_completion_tells_the_drawn_token_besides_the_likeliest() -> None:
    logprobs = completion_logprobs([7], [POSITION], count=1, names=NAMES, text="x", offset=0)
    assert list(logprobs["top_logprobs"][0].values()) == [-0.5, -3.0]


def test_chat_tells_the_likeliest_alone() -> None:
    [entry] = chat_logprobs([7], [POSITION], count=2, names=NAMES)["content"]
    assert entry["logprob"] == -3.0
    assert [one["logprob"] for one in entry["top_logprobs"]] == [-0.5, -1.0]


def test_offsets_count_characters() -> None:
    assert offsets(ids("abc"), "abc", offset=5) == [5, 6, 7]


def test_parts_of_a_character_stand_where_it_begins_or_ends() -> None:
    token_ids = ids("aé!")
    assert len(token_ids) == 4
    assert offsets(token_ids, "aé!") == [0, 1, 2, 2]


def test_special_token_takes_room_only_where_the_text_has_it() -> None:
    assert offsets([EOS, *ids("ab")], "ab") == [0, 0, 1]
    assert offsets([EOS, *ids("ab")], "<eos>ab") == [0, 5, 6]


def test_bytes_of_half_a_character_are_its_own() -> None:
    first, second = ids("é")
    entries = chat_logprobs([first, second], [position(first), position(second)], count=0, names=NAMES)["content"]
    assert [entry["bytes"] for entry in entries] == [[0xC3], [0xA9]]
    assert bytes(one for entry in entries for one in entry["bytes"]).decode() == "é"


def test_tokens_without_a_tokenizer_have_their_id() -> None:
    names = TokenNames(None, as_ids=False)
    [entry] = chat_logprobs([7], [POSITION], count=0, names=names)["content"]
    assert (entry["token"], entry["bytes"]) == ("token_id:7", None)


def test_prompt_positions_are_objects_by_token_id() -> None:
    assert prompt_logprobs([None, {3: Logprob(-math.inf, 9, "x")}]) == [
        None,
        {"3": {"logprob": -9999.0, "rank": 9, "decoded_token": "x"}},
    ]
    assert prompt_logprobs(None) is None
