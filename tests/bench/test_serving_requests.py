from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jaxllm.bench.serving_requests import (
    ServingRequest,
    as_texts,
    as_token_ids,
    custom_requests,
    ragged_random_requests,
)
from jaxllm.bench.workload import BenchmarkRequest
from jaxllm.errors import ValidationError


def make_random(num_requests: int = 200, **options: Any) -> list[BenchmarkRequest]:
    values: dict[str, Any] = {"range_ratio": 0.0, "prefix_len": 0, "vocab_size": 50, "seed": 0} | options
    return ragged_random_requests(num_requests=num_requests, input_len=20, output_len=10, **values)


def lengths(requests: list[BenchmarkRequest]) -> set[tuple[int, int]]:
    return {(len(request.prompt_token_ids), request.output_len) for request in requests}


def test_lengths_are_exact_without_a_range() -> None:
    assert lengths(make_random()) == {(20, 10)}


def test_lengths_fill_the_range() -> None:
    found = lengths(make_random(2000, range_ratio=0.5))
    assert {length for length, _ in found} == set(range(10, 31))
    assert {length for _, length in found} == set(range(5, 16))


def test_no_length_is_below_one() -> None:
    assert min(length for _, length in lengths(make_random(range_ratio=0.99))) == 1


def test_prefix_is_shared_and_comes_on_top() -> None:
    requests = make_random(3, prefix_len=7)
    assert lengths(requests) == {(27, 10)}
    assert len({tuple(request.prompt_token_ids[:7]) for request in requests}) == 1
    assert len({tuple(request.prompt_token_ids[7:]) for request in requests}) == 3


def test_prompts_repeat_with_their_seed() -> None:
    assert make_random(seed=1, range_ratio=0.5) == make_random(seed=1, range_ratio=0.5)
    assert make_random(seed=1) != make_random(seed=2)


def test_token_ids_are_of_the_vocabulary() -> None:
    token_ids = {token_id for request in make_random(vocab_size=3) for token_id in request.prompt_token_ids}
    assert token_ids == {0, 1, 2}


@pytest.mark.parametrize("range_ratio", [-0.1, 1.0])
def test_range_outside_its_bounds_is_refused(range_ratio: float) -> None:
    with pytest.raises(ValidationError, match=r"random_range_ratio must be in \[0, 1\), got"):
        make_random(range_ratio=range_ratio)


def test_prompts_go_as_token_ids_or_as_text() -> None:
    request = BenchmarkRequest(prompt_token_ids=[1, 2], output_len=3)
    assert as_token_ids([request]) == [ServingRequest(prompt=[1, 2], prompt_len=2, output_len=3)]
    assert as_texts([request], str) == [ServingRequest(prompt="[1, 2]", prompt_len=2, output_len=3)]


def test_text_of_the_dataset_is_sent_as_it_is() -> None:
    request = BenchmarkRequest(prompt_token_ids=[1, 2], output_len=3, text="a b")
    assert as_texts([request], str) == [ServingRequest(prompt="a b", prompt_len=2, output_len=3)]


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n\n" for row in rows), encoding="utf-8")
    return path


def load(path: Path, **options: Any) -> list[ServingRequest]:
    values: dict[str, Any] = {"render": str.upper, "num_requests": 2, "output_len": 5, "seed": 0} | options
    return custom_requests(path=path, **values)


def test_custom_prompts_are_rendered_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"})
    assert load(path, is_shuffled=False) == [
        ServingRequest(prompt="A", prompt_len=None, output_len=5),
        ServingRequest(prompt="B", prompt_len=None, output_len=5),
    ]


def test_custom_prompts_rendered_to_token_ids_have_a_length(tmp_path: Path) -> None:
    [request] = load(write(tmp_path, {"prompt": "a"}), render=lambda text: [1, 2, 3], num_requests=1)
    assert request.prompt_len == 3


def test_custom_prompts_are_shuffled_by_seed(tmp_path: Path) -> None:
    path = write(tmp_path, *({"prompt": str(index)} for index in range(20)))
    orders = [[request.prompt for request in load(path, num_requests=20, seed=seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_custom_lengths_can_come_from_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "a", "output_tokens": 3}, {"prompt": "b", "output_tokens": 4})
    assert [request.output_len for request in load(path, output_len=-1, is_shuffled=False)] == [3, 4]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"prompt": "a"}], {}, r"has 1 prompts, expected at least 2 \(num_prompts\)$"),
        ([{"text": "a"}, 1], {}, r"must have 'prompt' \(str\) in every line, got "),
        ([{"prompt": "a"}] * 2, {"output_len": -1}, r"must have 'output_tokens' \(int\) in every line, got "),
    ],
)
def test_mistake_in_a_custom_file_is_named(
    rows: list[Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValidationError, match=message):
        load(write(tmp_path, *rows), **options)


def test_file_that_is_no_jsonl_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("hello\n", encoding="utf-8")
    with pytest.raises(ValidationError, match=r"x.jsonl must hold one JSON object per line"):
        load(path)


def test_missing_custom_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"dataset_path must be a JSONL file, got .*nothing"):
        load(tmp_path / "nothing")
