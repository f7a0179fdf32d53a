import pytest

from jaxllm.engine.metrics import EngineCounters
from jaxllm.engine.page_tables import PageTables
from jaxllm.engine.request import Request, RequestStatus
from jaxllm.engine.running_requests import RunningRequests
from jaxllm.engine.swap_space import SwapSpace
from jaxllm.engine.waiting_queue import WaitingQueue
from tests.engine.helpers import make_internal, make_request


class Place:
    """Running requests with pages of four tokens, and what they share with the scheduler."""

    def __init__(self, num_pages: int, num_host_pages: int = 0) -> None:
        self.tables = PageTables(num_pages=num_pages + 1, page_size=4, enable_prefix_caching=False)
        self.swap_space = SwapSpace(4)
        self.swap_space.grow(num_host_pages)
        self.waiting = WaitingQueue()
        self.counters = EngineCounters()
        self.running = RunningRequests(
            page_tables=self.tables,
            swap_space=self.swap_space,
            waiting=self.waiting,
            max_num_seqs=8,
            counters=self.counters,
        )

    def start(self, order: int, num_tokens: int = 4, beam_width: int | None = None) -> Request:
        """A request whose prompt is computed."""
        source = make_request(str(order), [1] * num_tokens, beam_width=beam_width)
        request = make_internal(source, order=(order,))
        assert self.tables.take(request, [])
        self.running.start(request)
        request.num_computed_tokens = num_tokens
        return request


def test_they_run_in_their_order_whoever_came_first() -> None:
    place = Place(3)
    second, third, first = place.start(2), place.start(3), place.start(1)
    assert [*place.running] == [first, second, third]
    assert [request.slot for request in (first, second, third)] == [2, 0, 1]


def test_one_that_ends_gives_back_what_it_held() -> None:
    place = Place(2)
    first, second = place.start(1), place.start(2)
    place.running.end(first)
    assert [*place.running] == [second]
    assert (place.tables.pool.num_free, place.running.slots.num_taken, len(place.waiting)) == (1, 1, 0)


def test_a_free_page_costs_nobody_anything() -> None:
    place = Place(3)
    first, second = place.start(1), place.start(2)
    assert place.running.extend(first)
    assert len(first.page_ids) == 2
    assert [*place.running] == [first, second]


@pytest.mark.parametrize(("num_host_pages", "num_saved"), [(0, 0), (1, 4)])
def test_the_last_one_pays_for_a_page(num_host_pages: int, num_saved: int) -> None:
    place = Place(2, num_host_pages)
    first, second = place.start(1), place.start(2)
    assert place.running.extend(first)
    assert [*place.running] == [first]
    assert (second.status, second.slot, second.num_preemptions) == (RequestStatus.PREEMPTED, None, 1)
    assert place.waiting.peek() is second
    assert second.num_saved_tokens == place.counters.num_saved_tokens == num_saved
    assert place.counters.num_preemptions == 1


def test_the_last_one_can_not_pay_for_itself() -> None:
    place = Place(2)
    first, second = place.start(1), place.start(2)
    assert not place.running.extend(second)
    assert [*place.running] == [first]
    assert place.waiting.peek() is second


def test_a_preemption_meanwhile_skips_nobody_before_it() -> None:
    place = Place(3)
    first, second, _third = place.start(1), place.start(2), place.start(3)
    seen = []
    for request in place.running:
        seen.append(request)
        if request is first:
            assert place.running.extend(first)
    assert seen == [first, second]


def test_a_search_loses_all_it_has_computed() -> None:
    place = Place(2, num_host_pages=2)
    first, search = place.start(1), place.start(2, beam_width=3)
    assert place.running.slots.num_taken == 4
    assert place.running.extend(first)
    assert (search.num_saved_tokens, place.swap_space.num_used, place.running.slots.num_taken) == (0, 0, 1)


def test_preempting_all_keeps_nothing() -> None:
    place = Place(2, num_host_pages=2)
    place.start(1), place.start(2)
    place.running.preempt_all()
    assert (len(place.running), len(place.waiting), place.counters.num_preemptions) == (0, 2, 2)
    assert (place.tables.pool.num_free, place.swap_space.num_used) == (2, 0)
