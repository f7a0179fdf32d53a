from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxllm.bench.sharegpt import sharegpt_requests
from jaxllm.bench.workload import BenchmarkRequest
from jaxllm.errors import ValidationError


def encode(text: str) -> list[int]:
    return list(range(len(text.split())))


def words(count: int) -> str:
    return " ".join(["word"] * count)


def conversation(*num_words: int) -> dict[str, object]:
    return {"id": "x", "conversations": [{"from": "human", "value": words(count)} for count in num_words]}


def write(folder: Path, *conversations: dict[str, object]) -> Path:
    path = folder / "sharegpt.json"
    path.write_text(json.dumps(conversations), encoding="utf-8")
    return path


def load(path: Path, num_requests: int = 1, output_len: int | None = None, seed: int = 0) -> list[BenchmarkRequest]:
    return sharegpt_requests(path=path, encode=encode, num_requests=num_requests, output_len=output_len, seed=seed)


def test_lengths_are_those_of_the_first_two_turns(tmp_path: Path) -> None:
    [request] = load(write(tmp_path, conversation(5, 9, 4)))
    assert (len(request.prompt_token_ids), request.output_len) == (5, 9)


def test_output_len_replaces_the_reply(tmp_path: Path) -> None:
    [request] = load(write(tmp_path, conversation(5, 1)), output_len=32)
    assert request.output_len == 32


@pytest.mark.parametrize("num_words", [(3, 9), (9, 3), (1025, 9), (1000, 1049), (9,)])
def test_conversation_outside_the_limits_is_left_out(tmp_path: Path, num_words: tuple[int, ...]) -> None:
    path = write(tmp_path, conversation(*num_words), conversation(5, 9))
    [request] = load(path)
    assert (len(request.prompt_token_ids), request.output_len) == (5, 9)


def test_order_follows_the_seed(tmp_path: Path) -> None:
    path = write(tmp_path, *(conversation(count, 9) for count in range(4, 24)))
    lengths = [[len(request.prompt_token_ids) for request in load(path, 20, seed=seed)] for seed in (1, 1, 2)]
    assert lengths[0] == lengths[1]
    assert lengths[0] != lengths[2]


def test_truncated_file_is_read_as_far_as_it_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path, conversation(5, 9), conversation(6, 9))
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    [request] = load(path)
    assert len(request.prompt_token_ids) == 5


def test_too_few_conversations_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"has 1 usable conversations, expected at least 2 \(num_prompts\)"):
        load(write(tmp_path, conversation(5, 9)), num_requests=2)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"dataset_path must be a ShareGPT JSON file, got .*nothing\.json"):
        load(tmp_path / "nothing.json")


def test_file_without_a_list_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ValidationError, match="must hold a JSON list of conversations, found none"):
        load(path)
