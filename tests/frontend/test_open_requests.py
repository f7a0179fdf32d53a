"""Ids and work of requests that callers wait for."""

from __future__ import annotations

import pytest

from jaxllm.errors import ValidationError
from jaxllm.frontend.open_requests import OpenRequests


def test_counts_follow_the_requests():
    requests = OpenRequests()
    first, second = requests.open("a", 3), requests.open(None, 1)
    requests.count_prompt(first, 10)
    requests.count_prompt(second, 5)
    assert (len(requests), requests.num_sequences, requests.num_prompt_tokens) == (2, 4, 15)
    requests.close(first)
    requests.close(first)
    assert (len(requests), requests.num_sequences, requests.num_prompt_tokens) == (1, 1, 5)
    requests.count_prompt(first, 10)
    assert requests.num_prompt_tokens == 5


def test_numbers_leave_out_ids_that_are_taken():
    requests = OpenRequests()
    requests.open("1", 1)
    assert [requests.open(None, 1).request_id for _ in range(3)] == ["0", "2", "3"]


def test_a_freed_id_may_be_taken_while_the_old_request_still_ends():
    requests = OpenRequests()
    old = requests.open("a", 1)
    with pytest.raises(ValidationError, match="request_id 'a' belongs to a running request already"):
        requests.open("a", 1)
    requests.free_id(old)
    new = requests.open("a", 1)
    assert requests.num_sequences == 2
    requests.close(old)
    requests.mark_aborted("a")
    assert (old.is_aborted, new.is_aborted) == (False, True)
    with pytest.raises(ValidationError, match="belongs to a running request"):
        requests.open("a", 1)


def test_ids_that_nobody_has_are_ignored():
    OpenRequests().mark_aborted("a")
