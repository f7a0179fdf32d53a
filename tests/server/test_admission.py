from __future__ import annotations

import asyncio

import pytest

from jaxllm.errors import ValidationError
from jaxllm.server.admission import Admission
from jaxllm.server.config import ServerConfig
from jaxllm.server.errors import UnavailableError


def make_admission(**limits) -> Admission:
    return Admission(ServerConfig(**limits))


def test_open_requests_are_counted() -> None:
    admission = make_admission()
    with admission.enter(2) as first, admission.enter(3):
        first.count_tokens(10)
        assert (admission.num_requests, admission.num_sequences, admission.num_tokens) == (2, 5, 10)
    assert (admission.num_requests, admission.num_sequences, admission.num_tokens) == (0, 0, 0)


def test_failed_request_is_not_counted_any_more() -> None:
    admission = make_admission()

    def fail() -> None:
        with admission.enter(2) as ticket:
            ticket.count_tokens(10)
            raise RuntimeError("failed")

    with pytest.raises(RuntimeError, match="failed"):
        fail()
    assert (admission.num_requests, admission.num_sequences, admission.num_tokens) == (0, 0, 0)


def test_more_requests_than_the_limit_are_turned_away() -> None:
    admission = make_admission(max_num_queued_reqs=3)
    with (
        admission.enter(2),
        pytest.raises(UnavailableError, match="2 completions are being worked on, and 3 is the limit; try again later"),
        admission.enter(2),
    ):
        pass
    assert admission.rejections == {"requests": 1}
    with admission.enter(3):
        pass


def test_request_that_is_too_large_for_ever_is_wrong() -> None:
    admission = make_admission(max_num_queued_reqs=3)
    expected = "a request may ask for at most 3 completions of all its prompts here, got 4"
    with pytest.raises(ValidationError, match=expected), admission.enter(4):
        pass


def test_no_request_is_taken_while_enough_tokens_are_open() -> None:
    admission = make_admission(max_num_queued_tokens=10)
    with admission.enter(1) as first:
        first.count_tokens(10)
        expected = "open requests have 10 prompt tokens, and 10 is the limit"
        with pytest.raises(UnavailableError, match=expected), admission.enter(1):
            pass
    assert admission.rejections == {"tokens": 1}


def test_prompt_longer_than_the_limit_is_taken_when_nothing_else_is_open() -> None:
    admission = make_admission(max_num_queued_tokens=10)
    with admission.enter(1) as ticket:
        ticket.count_tokens(20)
        assert admission.num_tokens == 20


def test_requests_admitted_together_are_counted_one_after_the_other() -> None:
    admission = make_admission(max_num_queued_tokens=10)
    with admission.enter(1) as first, admission.enter(1) as second:
        first.count_tokens(10)
        with pytest.raises(UnavailableError, match="prompt tokens"):
            second.count_tokens(1)


def test_nothing_is_taken_while_draining() -> None:
    admission = make_admission()
    admission.is_draining = True
    with pytest.raises(UnavailableError, match="the server is shutting down"), admission.enter(1):
        pass
    assert admission.rejections == {"draining": 1}


def test_waiting_ends_with_the_last_request() -> None:
    admission = make_admission()

    async def main() -> None:
        assert await admission.wait_until_idle(0)
        with admission.enter(1):
            assert not await admission.wait_until_idle(0)
            waiting = asyncio.create_task(admission.wait_until_idle(60))
            await asyncio.sleep(0)
        assert await waiting

    asyncio.run(main())


def test_answer_says_when_to_come_back(start) -> None:
    client = start(config={"max_num_queued_reqs": 2})
    with client.context.admission.enter(2):
        for stream in (False, True):
            response = client.post("/v1/completions", {"prompt": "hi", "stream": stream})
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert response.json()["error"] == {
                "message": "2 completions are being worked on, and 2 is the limit; try again later",
                "type": "ServiceUnavailableError",
                "param": None,
                "code": 503,
            }
    assert client.post("/v1/completions", {"prompt": "hi"}).status_code == 200
