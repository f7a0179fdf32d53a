import pytest

from jaxllm.engine.request import Request, RequestStatus
from jaxllm.engine.waiting_queue import WaitingQueue
from tests.engine.helpers import make_internal, make_request


def queued(order: tuple[float, ...]) -> Request:
    return make_internal(make_request("r", [1]), order=order)


def test_gives_requests_in_order() -> None:
    queue = WaitingQueue()
    requests = [queued((0, 2)), queued((0, 0)), queued((-1, 5))]
    for request in requests:
        queue.push(request)
    assert [queue.pop(), queue.pop(), queue.pop()] == [requests[2], requests[1], requests[0]]


def test_a_request_pushed_again_returns_to_its_place() -> None:
    queue = WaitingQueue()
    first, second = queued((0,)), queued((1,))
    queue.push(first)
    queue.push(second)
    queue.push(queue.pop())
    assert queue.peek() is first


def test_passes_over_discarded_requests() -> None:
    queue = WaitingQueue()
    first, second = queued((0,)), queued((1,))
    queue.push(first)
    queue.push(second)
    first.status = RequestStatus.FINISHED
    queue.discard(first)
    assert len(queue) == 1
    assert queue.pop() is second
    assert queue.peek() is None


def test_refuses_to_discard_a_live_request() -> None:
    with pytest.raises(AssertionError, match="request r is not finished"):
        WaitingQueue().discard(queued((0,)))
